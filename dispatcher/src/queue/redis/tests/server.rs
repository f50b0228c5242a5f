//! A redis-server for one test: in its own directory, on a Unix socket, ended with the value.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    dir: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// Starts a server with these settings (`--name value`) beside the usual ones for a test.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = launch(&dir, &arguments);
        Self { process, dir, arguments }
    }

    /// Starts a server that is a cluster of its own and owns all slots.
    pub(crate) async fn start_cluster_node() -> Self {
        let server = Self::start(&[
            "--cluster-enabled",
            "yes",
            "--databases",
            "1",
            "--port",
            &free_port().to_string(),
        ]);
        let mut client = server.client().await;
        let (): () = redis::cmd("CLUSTER")
            .arg(&["ADDSLOTSRANGE", "0", "16383"])
            .query_async(&mut client)
            .await
            .unwrap();
        loop {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut client).await.unwrap();
            if info.contains("cluster_state:ok") {
                return server;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Starts a killed server again on what it left on disk.
    pub(crate) fn restart(&mut self) {
        self.process = launch(&self.dir, &self.arguments);
    }

    /// Makes the server listen on a port of the loopback interface too.
    pub(crate) async fn listen(&self) -> u16 {
        let port = free_port();
        let mut client = self.client().await;
        let (): () =
            redis::cmd("CONFIG").arg("SET").arg("port").arg(port).query_async(&mut client).await.unwrap();
        port
    }

    /// Kills the server without warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The URL of a database.
    pub(crate) fn url(&self, db: u32) -> String {
        format!("redis+unix://{}?db={db}", self.dir.path().join("redis.sock").display())
    }

    /// A plain connection to database 0.
    pub(crate) async fn client(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url(0)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed by the test.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    // A cluster node also takes the port 10,000 above.
    loop {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        if port < 50_000 {
            return port;
        }
    }
}

fn launch(dir: &TempDir, arguments: &[String]) -> Child {
    let mut process = Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--databases", "1000"])
        .args(arguments)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server 7.0 or later on the PATH");
    let mut log = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    while !log.to_lowercase().contains("ready to accept connections") {
        assert_ne!(output.read_line(&mut log).unwrap(), 0, "redis-server did not start: {log}");
    }
    // The pipe must be read on, or the server would stall or be killed when it logs.
    std::thread::spawn(move || {
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|read| read > 0) {
            line.clear();
        }
    });
    process
}

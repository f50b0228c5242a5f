//! A redis-server for one test: in its own directory, on a Unix socket and perhaps a port, ended with the value.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    dir: TempDir,
    arguments: Vec<String>,
    port: u16,
}

/// How long a machine that is very busy may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// By how much a server's clock is ahead, and what makes it so, in the server's directory.
const CLOCK: &str = "clock";
const CLOCK_LIBRARY: &str = "clock.so";

impl Server {
    /// Starts a server with these settings (`--name value`) beside the usual ones for a test.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process =
            launch(&dir, &arguments).unwrap_or_else(|log| panic!("redis-server did not start: {log}"));
        Self { process, dir, arguments, port: 0 }
    }

    /// Starts a server whose clock can be set ([`Server::set_clock`]); it begins as the system's.
    pub(super) fn start_with_clock(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/queue/redis/tests/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(dir.path().join(CLOCK_LIBRARY)).arg(source);
        assert!(compiler.status().expect("a C compiler on the PATH").success());
        std::fs::write(dir.path().join(CLOCK), 0_i64.to_ne_bytes()).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process =
            launch(&dir, &arguments).unwrap_or_else(|log| panic!("redis-server did not start: {log}"));
        Self { process, dir, arguments, port: 0 }
    }

    /// Sets the server's clock so far ahead of the system's, or behind it.
    pub(super) fn set_clock(&self, ahead_ms: i64) {
        use std::io::Write as _;
        // In place: the server has the file mapped.
        let mut file = std::fs::OpenOptions::new().write(true).open(self.dir.path().join(CLOCK)).unwrap();
        file.write_all(&ahead_ms.to_ne_bytes()).unwrap();
    }

    /// Starts a server that also listens on a port of the loopback interface.
    pub(super) fn start_on_port(arguments: &[&str]) -> Self {
        Self::start_on("--port", arguments)
    }

    /// Starts a server that also listens for TLS on a port of the loopback interface.
    pub(super) fn start_on_tls_port(arguments: &[&str]) -> Self {
        Self::start_on("--tls-port", arguments)
    }

    fn start_on(setting: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut log = String::new();
        // Between looking for a free port and taking it, another process may be faster.
        for _ in 0..50 {
            let port = free_port();
            let own = [setting.to_owned(), port.to_string(), "--bind".to_owned(), "127.0.0.1".to_owned()];
            let arguments: Vec<String> =
                arguments.iter().map(|&argument| argument.to_owned()).chain(own).collect();
            match launch(&dir, &arguments) {
                Ok(process) => return Self { process, dir, arguments, port },
                Err(said) => log = said,
            }
        }
        panic!("redis-server did not start: {log}");
    }

    /// Starts a Sentinel with these lines of settings.
    pub(super) fn start_sentinel(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut log = String::new();
        for _ in 0..50 {
            let port = free_port();
            let file = dir.path().join("sentinel.conf");
            std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{lines}")).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel").current_dir(dir.path());
            match wait_for(command, "+monitor master") {
                Ok(process) => return Self { process, dir, arguments: Vec::new(), port },
                Err(said) => log = said,
            }
        }
        panic!("Sentinel did not start: {log}");
    }

    /// Starts a killed server again on what it left on disk.
    pub(crate) fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// Starts a killed server again with more settings.
    pub(super) fn restart_with(&mut self, arguments: &[&str]) {
        let more = arguments.iter().map(|&argument| argument.to_owned());
        let arguments: Vec<String> = self.arguments.iter().cloned().chain(more).collect();
        self.process = launch(&self.dir, &arguments).unwrap_or_else(|log| panic!("{log}"));
    }

    /// Freezes the server: connections stay open and nothing is answered.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Undoes [`Server::freeze`].
    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The port, where it has one from the start.
    pub(super) fn port(&self) -> u16 {
        self.port
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
        self.try_client().await.unwrap()
    }

    async fn try_client(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let sentinel = !self.dir.path().join("redis.sock").exists();
        let url = if sentinel { format!("redis://127.0.0.1:{}", self.port) } else { self.url(0) };
        let client = redis::Client::open(url)?;
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// One command on a connection of its own.
    pub(super) async fn ask<T: redis::FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        command.arg(words.collect::<Vec<_>>());
        command.query_async(&mut self.try_client().await?).await
    }

    /// As [`Server::ask`], for an answer that does not matter.
    pub(super) async fn tell(&self, command: &str) {
        self.ask::<redis::Value>(command).await.unwrap_or_else(|error| panic!("{command}: {error}"));
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

fn launch(dir: &TempDir, arguments: &[String]) -> Result<Child, String> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--databases", "1000"])
        .args(arguments)
        .current_dir(dir.path());
    let clock = dir.path().join(CLOCK_LIBRARY);
    if clock.exists() {
        command.env("LD_PRELOAD", clock).env("BACKHAUL_TEST_CLOCK", dir.path().join(CLOCK));
    }
    wait_for(command, "ready to accept connections")
}

/// Starts a server and waits until it says that it is there; its log when it ends instead.
fn wait_for(mut command: Command, sign: &str) -> Result<Child, String> {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server 7.0 or later on the PATH");
    let mut log = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    while !log.to_lowercase().contains(sign) {
        if output.read_line(&mut log).unwrap() == 0 {
            drop(process.wait());
            return Err(log);
        }
    }
    // The pipe must be read on, or the server would stall or be killed when it logs.
    std::thread::spawn(move || {
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|read| read > 0) {
            line.clear();
        }
    });
    Ok(process)
}

//! The child redis-server of a standalone Backhaul: started on a free port with a password, safe settings and an append-only file,
//! and stopped with it.
//!
//! Must not outlive its parent by choice: it is asked to end on stop, and killed when dropped.

use std::{
    io,
    net::TcpListener,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::layout::random_hex;

/// Tries to start: between choosing a free port and binding it, somebody else may take it.
const TRIES: u32 = 5;
/// Longest time to load the append-only file.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longest time to write it out at the end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running redis-server.
#[derive(Debug)]
pub(crate) struct ChildRedis {
    child: Child,
    port: u16,
    password: String,
}

impl ChildRedis {
    /// Starts `program` on the data in `folder` and waits until it answers.
    pub(crate) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let password = random_hex(16)?;
        let mut last = None;
        for _ in 0..TRIES {
            let port = free_port()?;
            let mut child = spawn(program, folder, port, &password).await?;
            match wait_until_ready(&mut child, port, &password).await {
                Ok(()) => return Ok(Self { child, port, password }),
                Err(error) => last = Some(error),
            }
            child.kill().await.context("ending a redis-server that did not become ready")?;
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("never tried"))).context("redis-server did not start")
    }

    /// Where it is, password included.
    pub(crate) fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/0", self.password, self.port)
    }

    /// Ends when the server ends.
    pub(crate) async fn exited(&mut self) -> String {
        self.child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string())
    }

    /// Asks it to end, and kills it if it does not.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        // A server that is already gone needs no asking.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await {
            stream.write_all(format!("AUTH {}\r\nSHUTDOWN\r\n", self.password).as_bytes()).await.ok();
            if let Ok(ended) = timeout(STOP_WITHIN, self.child.wait()).await {
                return ended.map(drop);
            }
        }
        self.child.kill().await
    }
}

async fn spawn(program: &Path, folder: &Path, port: u16, password: &str) -> anyhow::Result<Child> {
    let mut child = Command::new(program)
        .arg("-") // settings from standard input, so that the password is on no command line
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        // Ctrl-C on the terminal reaches the whole process group: the server must outlast the services that need it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}: is redis-server installed?", program.display()))?;
    let settings = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave \"\"\nappendonly yes\nappendfsync always\n\
         maxmemory-policy noeviction\nloglevel warning\nlogfile redis.log\n"
    );
    let mut stdin = child.stdin.take().context("redis-server has no standard input")?;
    stdin.write_all(settings.as_bytes()).await.context("writing the settings of redis-server")?;
    Ok(child)
}

async fn wait_until_ready(child: &mut Child, port: u16, password: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("it ended at once with {status}; see redis.log in its folder");
        }
        if answers(port, password).await.unwrap_or(false) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("it does not answer");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// True when the server takes the password and has loaded its data.
async fn answers(port: u16, password: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("AUTH {password}\r\nPING\r\n").as_bytes()).await?;
    let expected = b"+OK\r\n+PONG\r\n";
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(&answer == expected)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

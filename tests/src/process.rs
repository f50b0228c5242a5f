//! A child process of a test: started, signalled, ended, and heard.
//!
//! Children stay in the test's process group, so that Ctrl-C and nextest's time-out reach them too. What they write goes to a file,
//! because a pipe that nobody reads would stop them, and is shown when the test fails.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use anyhow::{Context as _, bail, ensure};

use crate::eventually::eventually;

/// Lines of a log shown when a test fails.
const SHOWN_LINES: usize = 80;

/// A running or ended child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    shown: bool,
}

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ask to end (SIGTERM).
    Terminate,
    /// End at once (SIGKILL).
    Kill,
    /// Freeze (SIGSTOP): the process keeps its sockets and does nothing.
    Stop,
    /// Thaw (SIGCONT).
    Continue,
}

impl Process {
    /// Starts `command`; what it writes is appended to `log`. `name` is for people.
    ///
    /// # Errors
    /// When the program cannot be run or the log not be written.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child =
            child.with_context(|| format!("cannot start {name}: {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), shown: false })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it has in use, in bytes, where the kernel tells.
    ///
    /// # Errors
    /// When the kernel does not tell, or it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Fails when it has ended: what waits for a sign of life need not wait for one of the dead.
    ///
    /// # Errors
    /// With the exit status and the end of the log.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        ensure!(self.is_running()?, "{} has already ended", self.name);
        // Signals other than SIGKILL need unsafe code or a shell; the id is ours until somebody waits for the child.
        let sent =
            Command::new("sh").arg("-c").arg(format!("kill -{} {}", signal.name(), self.id())).status()?;
        ensure!(sent.success(), "{} could not be signalled", self.name);
        Ok(())
    }

    /// Kills it at once and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        Ok(self.child.wait()?)
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::Terminate)?;
        self.wait().await
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        eventually(&what, async || self.child.try_wait()?.context("it still runs")).await
    }

    /// All that it has written so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Shows the end of its log in the output of the test; once.
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
    pub fn show_log(&mut self) {
        if !self.shown {
            self.shown = true;
            eprintln!("--- {} (last {SHOWN_LINES} lines)\n{}\n---", self.name, self.last_lines());
        }
    }

    fn last_lines(&self) -> String {
        let log = self.log().unwrap_or_else(|error| format!("(no log: {error})"));
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for, which is what they are for.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
        if thread::panicking() {
            self.show_log();
        }
    }
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use tempfile::TempDir;

    use super::*;

    fn shell(script: &str) -> (Process, TempDir) {
        let folder = TempDir::new().unwrap();
        let process =
            Process::start("shell", Command::new("sh").arg("-c").arg(script), &folder.path().join("log"))
                .unwrap();
        (process, folder)
    }

    /// Whether there is a process of that id, be it a zombie.
    fn exists(id: u32) -> bool {
        let probe = Command::new("sh").arg("-c").arg(format!("kill -0 {id} 2>/dev/null")).status();
        probe.unwrap().success()
    }

    #[test]
    fn a_dropped_process_is_gone_and_leaves_no_zombie() {
        let (process, _folder) = shell("exec sleep 1000");
        let id = process.id();
        assert!(exists(id));
        drop(process);
        assert!(!exists(id));
    }

    #[test]
    fn a_frozen_process_is_killed_when_dropped() {
        let (mut process, _folder) = shell("exec sleep 1000");
        let id = process.id();
        process.signal(Signal::Stop).unwrap();
        drop(process);
        assert!(!exists(id));
    }

    #[tokio::test]
    async fn what_it_wrote_and_how_it_ended_can_be_told() {
        let (mut process, _folder) = shell("echo out; echo err >&2; exit 3");
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        assert_eq!(process.log().unwrap(), "out\nerr\n");
        let told = process.ensure_running().unwrap_err().to_string();
        assert!(told.contains("err") && told.contains('3'), "{told}");
        assert!(process.signal(Signal::Terminate).is_err(), "its id may be another's by now");
    }

    #[tokio::test]
    async fn a_frozen_process_goes_on_when_thawed_and_hears_what_came_meanwhile() {
        let (mut process, _folder) = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done");
        eventually("it is ready", async || process.log()?.contains("ready").then_some(()).context("not yet"))
            .await
            .unwrap();
        process.signal(Signal::Stop).unwrap();
        process.signal(Signal::Terminate).unwrap();
        process.signal(Signal::Continue).unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(7));
        let (mut other, _folder) = shell("exec sleep 1000");
        assert_eq!(other.kill().unwrap().signal(), Some(9));
    }
}

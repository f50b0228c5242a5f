//! A program's port for operators, as a scraper, a probe and KEDA see it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint};

use crate::ports::Port;

/// A port that is to be given to a program as `--ops-listen`.
#[derive(Debug)]
pub struct OpsPort(Port);

impl OpsPort {
    /// A free one.
    ///
    /// # Errors
    /// When there is none.
    pub fn lease() -> anyhow::Result<Self> {
        Ok(Self(Port::lease()?))
    }

    /// What the flag is to say.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.0.number())
    }

    /// The status and body of a page.
    ///
    /// # Errors
    /// When nobody answers, or not in HTTP.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address()).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
        let status = head.split(' ').nth(1).context("a head has a status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The value of a sample, named as on the page of metrics.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn metric(&self, sample: &str) -> anyhow::Result<f64> {
        let (status, page) = self.get("/metrics").await?;
        ensure!(status == 200, "status {status}");
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {sample} in\n{page}"))?.parse()?)
    }

    /// A channel for the gRPC services there.
    ///
    /// # Errors
    /// When the address is none.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address()))?.connect_lazy())
    }
}

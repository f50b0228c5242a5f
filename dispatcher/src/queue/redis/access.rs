//! Where servers are and how to log in to them: addresses, users, passwords, certificates.
//!
//! Files are read for every connection, so that a password or a certificate that was replaced is used from the next one on. Nothing
//! here may show a secret.

use std::{fmt, path::PathBuf};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
};

/// Where one server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// A socket on this machine.
    Unix(PathBuf),
}

/// How every server of a kind is entered.
#[derive(Clone, Default)]
pub(super) struct Access {
    tls: bool,
    login: RedisConnectionInfo,
    password_file: Option<PathBuf>,
    files: TlsFiles,
}

/// Files of certificates for `rediss://`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities to trust instead of the system's (PEM).
    pub authorities: Option<PathBuf>,
    /// Our certificate, where the server asks for one (PEM), and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Who logs in, where the URL does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// User of an access control list.
    pub user: Option<String>,
    /// File with the password; what follows its first line is ignored.
    pub password_file: Option<PathBuf>,
}

/// Reads `redis[s]://[user[:password]@]host[:port][,host[:port]...][/db]` or `unix:///path`.
pub(super) fn parse(url: &str, files: &TlsFiles) -> RedisResult<(Access, Vec<Address>)> {
    let mut access = Access { files: files.clone(), ..Access::default() };
    let mut addresses = Vec::new();
    for one in one_by_one(url) {
        let info = one.as_str().into_connection_info()?;
        access.login = info.redis_settings().clone();
        if let ConnectionAddr::TcpTls { host, port, insecure: false, .. } = info.addr() {
            access.tls = true;
            addresses.push(Address::Tcp(host.clone(), *port));
        } else if let ConnectionAddr::Tcp(host, port) = info.addr() {
            addresses.push(Address::Tcp(host.clone(), *port));
        } else if let ConnectionAddr::Unix(path) = info.addr() {
            addresses.push(Address::Unix(path.clone()));
        } else {
            return Err((ErrorKind::InvalidClientConfig, "certificates must be verified").into());
        }
    }
    Ok((access, addresses))
}

/// A URL for each of the hosts that the URL names.
fn one_by_one(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| !scheme.contains("unix")) else {
        return vec![url.to_owned()];
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    hosts.split(',').map(|host| format!("{scheme}://{login}{host}{path}")).collect()
}

impl Access {
    /// The same, for other servers than the URL names: the database is kept, the user is not.
    pub(super) fn for_others(&self, login: &Login) -> Self {
        let plain = RedisConnectionInfo::default().set_db(self.login.db());
        Self { login: plain, password_file: None, ..self.clone() }.with_login(login)
    }

    /// The same, for servers without databases.
    pub(super) fn without_database(mut self) -> Self {
        self.login = self.login.set_db(0);
        self
    }

    /// The same, logging in as `login` where that says more.
    pub(super) fn with_login(mut self, login: &Login) -> Self {
        if let Some(user) = &login.user {
            self.login = self.login.set_username(user);
        }
        if login.password_file.is_some() {
            self.password_file.clone_from(&login.password_file);
        }
        self
    }

    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.login.db()
    }

    /// What connects to this address.
    pub(super) async fn client(&self, address: &Address) -> RedisResult<Client> {
        let mut login = self.login.clone();
        if let Some(path) = &self.password_file {
            let text =
                tokio::fs::read_to_string(path).await.map_err(|error| unreadable("password", &error))?;
            login = login.set_password(text.lines().next().unwrap_or_default());
        }
        let addr = match address {
            Address::Tcp(host, port) if self.tls => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
            Address::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        let settings = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info: ConnectionInfo =
            addr.into_connection_info()?.set_redis_settings(login).set_tcp_settings(settings);
        if !self.tls {
            return Client::open(info);
        }
        // Whoever comes second finds it installed.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        Client::build_with_tls(info, self.files.read().await?)
    }
}

impl TlsFiles {
    async fn read(&self) -> RedisResult<TlsCertificates> {
        let read = async |what, path: &PathBuf| {
            tokio::fs::read(path).await.map_err(|error| unreadable(what, &error))
        };
        let root_cert = match &self.authorities {
            Some(path) => Some(read("authorities", path).await?),
            None => None,
        };
        let client_tls = match &self.client {
            Some((certificate, key)) => Some(ClientTlsConfig {
                client_cert: read("certificate", certificate).await?,
                client_key: read("key", key).await?,
            }),
            None => None,
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

/// Not an I/O error of the connection: it does not pass by itself. The path is the operator's own and no secret.
fn unreadable(what: &'static str, error: &std::io::Error) -> RedisError {
    (ErrorKind::InvalidClientConfig, "a file for Redis cannot be read", format!("{what}: {error}")).into()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("tls", &self.tls).field("db", &self.login.db()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<String> {
        parse(url, &TlsFiles::default()).unwrap().1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_url_names_one_server_or_several() {
        assert_eq!(hosts("redis://127.0.0.1"), ["127.0.0.1:6379"]);
        assert_eq!(hosts("redis://user:p%2Cw@a:1,b,c:3/2"), ["a:1", "b:6379", "c:3"]);
        assert_eq!(hosts("rediss://[::1]:1,b:2"), ["::1:1", "b:2"]);
        assert_eq!(hosts("redis+unix:///run/a,b.sock?db=3"), ["/run/a,b.sock"]);
        assert!(parse("http://a", &TlsFiles::default()).is_err());
        assert!(parse("redis://a:1,b:no", &TlsFiles::default()).is_err());
    }

    #[test]
    fn user_password_and_database_come_from_the_url_or_from_settings_and_are_never_shown() {
        let (access, _) = parse("redis://user:p%2Cw@a:1,b:2/2", &TlsFiles::default()).unwrap();
        assert_eq!((access.login.username(), access.login.password()), (Some("user"), Some("p,w")));
        assert_eq!(access.database(), 2);
        assert!(!format!("{access:?}").contains("p,w"));
        let others = access.for_others(&Login { user: Some("other".into()), password_file: None });
        assert_eq!((others.login.username(), others.login.password()), (Some("other"), None));
        assert_eq!((others.database(), access.without_database().database()), (2, 0));
    }

    #[test]
    fn certificates_are_verified_or_refused() {
        assert!(parse("rediss://a:1", &TlsFiles::default()).unwrap().0.tls);
        assert!(parse("rediss://a:1/#insecure", &TlsFiles::default()).is_err());
    }

    #[tokio::test]
    async fn a_password_is_read_for_each_connection() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let login = Login { user: None, password_file: Some(file.clone()) };
        let access = parse("redis://a", &TlsFiles::default()).unwrap().0.with_login(&login);
        let address = Address::Tcp("a".into(), 1);
        assert!(access.client(&address).await.is_err());
        for password in ["one", "two"] {
            std::fs::write(&file, format!("{password}\n")).unwrap();
            let client = access.client(&address).await.unwrap();
            assert_eq!(client.get_connection_info().redis_settings().password(), Some(password));
        }
    }
}

//! Where a server is, and how to be let in: `postgres://user:password@host:port/database?sslrootcert=ca.pem`.
//!
//! # Invariants
//! * A password is shown by nothing: not by `Display`, not by `Debug`, not by an error, also where the URL is wrong because of
//!   what stands in it.
//! * Beyond this machine TLS with the server's name checked is what happens unless the URL *and* the node say otherwise. The
//!   weaker modes of `sslmode` are refused: they encrypt, and do not ask with whom.

use std::{env, fmt, net::IpAddr, path::PathBuf, time::Duration};

/// Longest URL, in bytes.
const URL_LEN_MAX: usize = 4_096;
/// Most addresses of one server.
const HOSTS_MAX: usize = 8;
const PORT: u16 = 5_432;
/// How long one address may take until it has let a connection in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_mins(1);
/// The keys that may stand behind the question mark.
const KEYS: &str =
    "host, sslmode, sslrootcert, sslcert, sslkey, connect_timeout, target_session_attrs, unsafe_fsync";

/// What of the access to servers is not in their URLs.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whether a URL may turn TLS off also towards other machines.
    pub insecure: bool,
    /// The password where the URL has none.
    pub password: Option<String>,
}

impl Access {
    /// As the environment says: the password from `PGPASSWORD`.
    pub fn from_environment(insecure: bool) -> Self {
        Self { insecure, password: env::var("PGPASSWORD").ok().filter(|password| !password.is_empty()) }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

/// Why a URL is none of a server. Each names the part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the URL of a PostgreSQL server is wrong at its {part}: {why}")]
pub struct UrlError {
    part: &'static str,
    why: String,
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// A name or an IP address.
    Tcp { host: String, port: u16 },
    /// The directory of a unix socket.
    Unix { directory: PathBuf, port: u16 },
}

impl Host {
    /// Whether what is said to it stays on this machine.
    fn is_here(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{}:{port}", host.escape_debug()),
            Self::Unix { directory, port } => {
                write!(f, "{}:{port}", directory.to_string_lossy().escape_debug())
            }
        }
    }
}

/// The PEM files of TLS with the server's name checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerTlsFiles {
    pub(super) authority: PathBuf,
    /// Certificate and key, where the server asks for them.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

/// One server: its addresses, of which one at a time takes writes, and the database of the cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) database: String,
    /// `None`: plain.
    pub(super) tls: Option<ServerTlsFiles>,
    /// Until one address must have let a connection in.
    pub(super) connect_timeout: Duration,
    /// Whether a server that does not sync is accepted.
    pub(super) unsafe_fsync: bool,
}

impl ServerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Names the part that is wrong, and never shows what may be a password.
    pub fn parse(url: &str, access: &Access) -> Result<Self, UrlError> {
        if URL_LEN_MAX < url.len() {
            return Err(wrong("length", format!("it is longer than {URL_LEN_MAX} bytes")));
        }
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| wrong("beginning", "it is to be postgres://"))?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if rest.contains(['@', '#']) {
            // Else a part of the password would be taken for a database, and shown in an error.
            let why = "there is an @ or a # behind the host: write / ? # @ : % in names and passwords as %2F %3F %23 %40 %3A %25";
            return Err(wrong("password", why));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(decode("password", password)?)),
            None => (credentials, None),
        };
        let parameters = Parameters::parse(query)?;
        let hosts = match &parameters.host {
            Some(host) if hosts.is_empty() => self::hosts(host, true)?,
            Some(_) => {
                return Err(wrong("host", "it stands before the database and behind the question mark"));
            }
            None => self::hosts(hosts, false)?,
        };
        let user = named("user", user)?;
        let database = named("database", path.strip_prefix('/').unwrap_or(path))?;
        let (connect_timeout, unsafe_fsync) = (parameters.connect_timeout, parameters.unsafe_fsync);
        let tls = parameters.tls(hosts.iter().all(Host::is_here), access.insecure)?;
        Ok(Self {
            hosts,
            user,
            password: password.filter(|password| !password.is_empty()).or_else(|| access.password.clone()),
            database,
            tls,
            connect_timeout,
            unsafe_fsync,
        })
    }

    /// Whether a server that does not sync its log is accepted (`unsafe_fsync=1`).
    pub fn accepts_unsafe_fsync(&self) -> bool {
        self.unsafe_fsync
    }
}

/// As a URL, without the password.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.user.escape_debug())?;
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.database.escape_debug())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

/// What stands behind the question mark.
struct Parameters {
    host: Option<String>,
    ssl_mode: Option<String>,
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    connect_timeout: Duration,
    unsafe_fsync: bool,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, UrlError> {
        let mut parameters = Self {
            host: None,
            ssl_mode: None,
            authority: None,
            certificate: None,
            key: None,
            connect_timeout: CONNECT_TIMEOUT,
            unsafe_fsync: false,
        };
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| wrong("parameters", "each is to be a key, an equals sign and a value"))?;
            if seen.contains(&key) {
                return Err(wrong("parameters", format!("{key:?} is there twice")));
            }
            seen.push(key);
            let value = decode("parameters", value)?;
            match key {
                "host" => parameters.host = Some(value),
                "sslmode" => parameters.ssl_mode = Some(value),
                "sslrootcert" => parameters.authority = Some(value.into()),
                "sslcert" => parameters.certificate = Some(value.into()),
                "sslkey" => parameters.key = Some(value.into()),
                "connect_timeout" => parameters.connect_timeout = connect_timeout(&value)?,
                "target_session_attrs" if value == "read-write" => {}
                "target_session_attrs" => {
                    return Err(wrong("target_session_attrs", "it can only be read-write, and always is"));
                }
                "unsafe_fsync" if ["0", "1"].contains(&value.as_str()) => {
                    parameters.unsafe_fsync = value == "1";
                }
                "unsafe_fsync" => return Err(wrong("unsafe_fsync", "it is to be 0 or 1")),
                "application_name" | "options" => {
                    return Err(wrong("parameters", format!("{key} is set by the node itself; take it out")));
                }
                _ => return Err(wrong("parameters", format!("{key:?} is not known; there are {KEYS}"))),
            }
        }
        Ok(parameters)
    }

    fn tls(self, is_here: bool, insecure: bool) -> Result<Option<ServerTlsFiles>, UrlError> {
        let is_plain = match self.ssl_mode.as_deref() {
            None => is_here && self.authority.is_none(),
            Some("disable") if is_here || insecure => true,
            Some("disable") => {
                let why = "`disable` sends everything readable over the network; take it out and name sslrootcert, or start \
                           with --insecure";
                return Err(wrong("sslmode", why));
            }
            Some("verify-full") => false,
            Some(mode) => {
                let why = format!("{mode:?} does not check who answers; it is to be verify-full, or disable");
                return Err(wrong("sslmode", why));
            }
        };
        if is_plain {
            if self.authority.is_some() || self.certificate.is_some() || self.key.is_some() {
                let why =
                    "without TLS no file of certificates is used; take out sslrootcert, sslcert and sslkey";
                return Err(wrong("sslmode", why));
            }
            return Ok(None);
        }
        let why = "a server on another machine is checked by the certificate of its authority: name the PEM file, sslrootcert=FILE";
        let authority = self.authority.ok_or_else(|| wrong("sslrootcert", why))?;
        if authority.as_os_str() == "system" {
            return Err(wrong("sslrootcert", "`system` is not offered; name the PEM file of the authority"));
        }
        let own = match (self.certificate, self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(wrong("sslcert", "certificate and key go together: sslcert=FILE&sslkey=FILE")),
        };
        Ok(Some(ServerTlsFiles { authority, own }))
    }
}

fn connect_timeout(text: &str) -> Result<Duration, UrlError> {
    let timeout = text.parse().ok().map(Duration::from_secs);
    timeout.filter(|timeout| !timeout.is_zero() && *timeout <= CONNECT_TIMEOUT_MAX).ok_or_else(|| {
        wrong("connect_timeout", format!("it is to be seconds from 1 to {}", CONNECT_TIMEOUT_MAX.as_secs()))
    })
}

/// Reads addresses with commas between them; `is_decoded` where they stood behind the question mark.
fn hosts(text: &str, is_decoded: bool) -> Result<Vec<Host>, UrlError> {
    if text.is_empty() {
        return Err(wrong("host", "it names none; there is no default"));
    }
    if HOSTS_MAX < text.split(',').count() {
        return Err(wrong("host", format!("one server has at most {HOSTS_MAX} addresses")));
    }
    text.split(',').map(|text| host(text, is_decoded)).collect()
}

fn host(text: &str, is_decoded: bool) -> Result<Host, UrlError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) =
            rest.split_once(']').ok_or_else(|| wrong("host", "a bracket is opened and not closed"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(wrong("host", "what stands in brackets is to be an IPv6 address"));
        }
        let port = if rest.is_empty() { None } else { rest.strip_prefix(':').or(Some("")) };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    // Not shown: where the @ is missing it is the password.
    let port = port.map_or(Ok(PORT), |port| {
        let port = port.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| {
            wrong("port", "it is to be a number from 1 to 65535 (an IPv6 address stands in brackets)")
        })
    })?;
    let host = if is_decoded { host.to_owned() } else { decode("host", host)? };
    if host.is_empty() || host.contains(['\0', ' ']) {
        return Err(wrong("host", "a name between commas is empty, or has a space in it"));
    }
    if host.starts_with('/') {
        return Ok(Host::Unix { directory: host.into(), port });
    }
    Ok(Host::Tcp { host, port })
}

/// A name that must be there.
fn named(part: &'static str, text: &str) -> Result<String, UrlError> {
    let text = decode(part, text)?;
    if text.is_empty() {
        return Err(wrong(part, "it is missing; there is no default: postgres://USER@HOST/DATABASE"));
    }
    if text.contains(['\0', '/']) {
        return Err(wrong(part, "it has a slash or a zero byte in it"));
    }
    Ok(text)
}

/// Resolves `%2F` and the like.
fn decode(part: &'static str, text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                return Err(wrong(
                    part,
                    "two hexadecimal digits go behind %; the sign itself is written %25",
                ));
            };
            bytes.push((high << 4 | low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong(part, "it is not UTF-8"))?;
    if text.contains('\0') {
        return Err(wrong(part, "it has a zero byte in it"));
    }
    Ok(text)
}

fn wrong(part: &'static str, why: impl Into<String>) -> UrlError {
    UrlError { part, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(url: &str) -> Result<ServerUrl, UrlError> {
        ServerUrl::parse(url, &Access::default())
    }

    fn tcp(host: &str, port: u16) -> Host {
        Host::Tcp { host: host.into(), port }
    }

    #[test]
    fn a_url_of_this_machine_is_plain() {
        let url = parse("postgres://entity:pa%2Fss%3A%40@localhost/cluster").unwrap();
        assert_eq!((url.user.as_str(), url.database.as_str()), ("entity", "cluster"));
        assert_eq!(url.password.as_deref(), Some("pa/ss:@"));
        assert_eq!(url.hosts, [tcp("localhost", 5432)]);
        assert_eq!(url.tls, None);
        let url = parse("postgresql://e@[::1]:6000,127.0.0.2/c").unwrap();
        assert_eq!(url.hosts, [tcp("::1", 6000), tcp("127.0.0.2", 5432)]);
        assert_eq!(url.to_string(), "postgres://e@[::1]:6000,127.0.0.2:5432/c");
        for url in ["postgres://e@%2Frun%2Fpg:7000/c", "postgres://e@/c?host=/run/pg:7000"] {
            let unix = Host::Unix { directory: "/run/pg".into(), port: 7000 };
            assert_eq!(parse(url).unwrap().hosts, [unix]);
        }
    }

    #[test]
    fn a_url_of_another_machine_is_checked_by_certificate() {
        let url =
            parse("postgres://e@db1,db2:6000/c?sslrootcert=/etc/ca.pem&sslcert=a.pem&sslkey=a.key").unwrap();
        let own = Some(("a.pem".into(), "a.key".into()));
        assert_eq!(url.tls, Some(ServerTlsFiles { authority: "/etc/ca.pem".into(), own }));
        // One address elsewhere is enough.
        assert!(parse("postgres://e@localhost,db/c").unwrap_err().to_string().contains("sslrootcert"));
        assert!(parse("postgres://e@localhost/c?sslrootcert=ca.pem").unwrap().tls.is_some());
    }

    #[test]
    fn plain_over_the_network_needs_the_nodes_word_too() {
        let url = "postgres://e@db/c?sslmode=disable";
        assert!(parse(url).unwrap_err().to_string().contains("--insecure"));
        let insecure = Access { insecure: true, password: None };
        assert_eq!(ServerUrl::parse(url, &insecure).unwrap().tls, None);
        assert!(
            ServerUrl::parse("postgres://e@db/c", &insecure).is_err(),
            "it allows, and does not ask for it"
        );
    }

    #[test]
    fn the_password_of_the_url_goes_before_that_of_the_environment() {
        let access = Access { insecure: false, password: Some("b".into()) };
        let password = |url| ServerUrl::parse(url, &access).unwrap().password;
        assert_eq!(password("postgres://e:a@localhost/c").as_deref(), Some("a"));
        assert_eq!(password("postgres://e@localhost/c").as_deref(), Some("b"));
        assert!(!format!("{access:?}").contains('b'));
    }

    #[test]
    fn an_error_names_the_part() {
        let cases = [
            ("mysql://e@localhost/c", "beginning"),
            ("postgres://localhost/c", "user"),
            ("postgres://e@localhost", "database"),
            ("postgres://e@localhost/", "database"),
            ("postgres://e@/c", "host"),
            ("postgres://e@a,,b/c", "host"),
            ("postgres://e@localhost:0/c", "port"),
            ("postgres://e@localhost:x/c", "port"),
            ("postgres://e@::1/c", "port"),
            ("postgres://e@[::1/c", "host"),
            ("postgres://e@[db]/c", "host"),
            ("postgres://e@[::1]6000/c", "port"),
            ("postgres://e@localhost/c/d", "database"),
            ("postgres://e@localhost/%zz", "database"),
            ("postgres://%ff@localhost/c", "user"),
            ("postgres://e%00@localhost/c", "user"),
            ("postgres://e@localhost/c?connect_timeout=0", "connect_timeout"),
            ("postgres://e@localhost/c?connect_timeout=61", "connect_timeout"),
            ("postgres://e@localhost/c?sslmode", "parameters"),
            ("postgres://e@localhost/c?sslmode=disable&sslmode=disable", "parameters"),
            ("postgres://e@localhost/c?sslmode=require", "sslmode"),
            ("postgres://e@localhost/c?sslmode=disable&sslrootcert=a", "sslmode"),
            ("postgres://e@db/c?sslrootcert=system", "sslrootcert"),
            ("postgres://e@db/c?sslrootcert=a&sslcert=b", "sslcert"),
            ("postgres://e@localhost/c?target_session_attrs=any", "target_session_attrs"),
            ("postgres://e@localhost/c?unsafe_fsync=yes", "unsafe_fsync"),
            ("postgres://e@localhost/c?application_name=x", "parameters"),
            ("postgres://e@localhost/c?color=x", "parameters"),
            ("postgres://e@a/c?host=b", "host"),
        ];
        for (url, part) in cases {
            let error = parse(url).expect_err(url);
            assert_eq!(error.part, part, "{url}: {error}");
        }
        assert_eq!(parse(&format!("postgres://e@a/{}", "c".repeat(5_000))).unwrap_err().part, "length");
        let many = ["localhost"; 9].join(",");
        assert_eq!(parse(&format!("postgres://e@{many}/c")).unwrap_err().part, "host");
    }

    proptest! {
        #[test]
        fn what_is_not_a_url_is_refused_without_a_panic(text in "(postgres://)?[a-z%0-9:/?#@=&,\\[\\].]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_password_is_never_shown(password in "[!-~]{6,12}") {
            // Long enough to stand in no message by chance, and raw: most of them are wrong in a URL.
            let password = format!("Zq{password}Zq");
            let shown = match parse(&format!("postgres://user:{password}@localhost/cluster")) {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains("Zq"), "{shown}");
        }
    }
}

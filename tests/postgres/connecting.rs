//! Connections reach the server they are for, say why they do not, and bring the session that batches rest on.

use entity_runtime::{
    store::postgres::{
        Access, ConnectError, Connector, Demands, Link, Purpose, ServerUrl, application_name, report,
    },
    transport::development_certificates,
};
use entity_runtime_tests::private_postgres::{ROLE, Server, Stop};
use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

const INCARNATION: u128 = 0xab;

fn connector(url: &str) -> Connector {
    Connector::new(ServerUrl::parse(url, &Access::default()).unwrap(), INCARNATION).unwrap()
}

async fn connect(url: &str, purpose: Purpose) -> Result<Link, ConnectError> {
    connector(url).connect(purpose).await
}

async fn refused(url: &str) -> ConnectError {
    match connect(url, Purpose::Lane).await {
        Ok(_) => panic!("{url} is connected"),
        Err(error) => error,
    }
}

async fn setting(link: &mut Link, name: &str) -> String {
    let text = link.run(|client| async move {
        let row = client.query_one("SELECT current_setting($1)", &[&name]).await?;
        row.try_get::<_, String>(0)
    });
    text.await.unwrap()
}

#[tokio::test]
async fn a_session_is_set_as_batches_need_it() {
    let server = Server::shared();
    let url = server.database().await;
    let mut lane = connect(&url, Purpose::Lane).await.unwrap();
    let expected = [
        ("application_name", application_name(INCARNATION)),
        ("statement_timeout", "30s".into()),
        ("lock_timeout", "5s".into()),
        ("idle_in_transaction_session_timeout", "5s".into()),
        ("default_transaction_isolation", "read committed".into()),
        ("client_min_messages", "warning".into()),
        ("search_path", "pg_catalog".into()),
        ("plan_cache_mode", "force_generic_plan".into()),
        ("enable_hashjoin", "off".into()),
        ("enable_mergejoin", "off".into()),
        ("enable_seqscan", "off".into()),
        ("jit", "off".into()),
        ("synchronous_commit", "on".into()),
    ];
    for (name, expected) in expected {
        assert_eq!(setting(&mut lane, name).await, expected, "{name}");
    }
    let mut start = connect(&url, Purpose::Start).await.unwrap();
    assert_eq!(setting(&mut start, "statement_timeout").await, "0");
    assert_eq!(setting(&mut start, "enable_seqscan").await, "on");
    assert_eq!(start.server, lane.server);
    assert!(130_000 <= lane.server.version && lane.server.timeline == 1);
}

#[tokio::test]
async fn what_the_database_says_of_commits_is_raised_and_never_lowered() {
    let server = Server::shared();
    let url = server.database().await;
    let database = url.rsplit('/').next().unwrap();
    for (of_database, expected) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")] {
        let alter = format!("ALTER DATABASE {database} SET synchronous_commit = {of_database}");
        server.execute("postgres", &alter).await;
        let mut link = connect(&url, Purpose::Lane).await.unwrap();
        assert_eq!(setting(&mut link, "synchronous_commit").await, expected);
    }
}

#[tokio::test]
async fn the_address_that_takes_writes_is_found() {
    let server = Server::shared();
    let url = server.database().await;
    let (before, database) = url.rsplit_once('/').unwrap();
    // Nobody listens on the first.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let two = before.replace('@', &format!("@127.0.0.1:{closed},"));
    connect(&format!("{two}/{database}"), Purpose::Lane).await.unwrap();
    // Its socket, without a password of the URL in the way.
    let directory = server.directory().to_str().unwrap().replace('/', "%2F");
    let port = server.port();
    let password = before.split(['/', '@']).nth(2).unwrap();
    connect(&format!("postgres://{password}@{directory}:{port}/{database}"), Purpose::Lane).await.unwrap();

    server
        .execute("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"))
        .await;
    let error = refused(&url).await;
    assert!(error.may_pass() && error.to_string().contains("does not allow writes"), "{error}");
}

#[tokio::test]
async fn an_error_says_which_server_and_why_and_never_the_password() {
    let server = Server::shared();
    let url = server.database().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cases = [
        (format!("postgres://{ROLE}:geheim@127.0.0.1:{closed}/x"), "refused"),
        (format!("postgres://{ROLE}:geheim@127.0.0.1:{}/x", server.port()), "password authentication failed"),
        (format!("{url}_missing"), "does not exist"),
    ];
    for (url, why) in cases {
        let error = refused(&url).await;
        assert!(error.may_pass(), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(why) && text.contains("127.0.0.1:"), "{text}");
        assert!(!text.contains("geheim") && !text.contains("tests: only"), "{text}");
    }
}

/// Passes the bytes of connections on, the first message of each changed by `change`.
fn between(to: u16, change: fn(&mut Vec<u8>)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for from in listener.incoming() {
            let (mut from, mut to) = (from.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
            let mut length = [0; 4];
            from.read_exact(&mut length).unwrap();
            let mut message = vec![0; u32::from_be_bytes(length) as usize - 4];
            from.read_exact(&mut message).unwrap();
            change(&mut message);
            to.write_all(&(message.len() as u32 + 4).to_be_bytes()).unwrap();
            to.write_all(&message).unwrap();
            let (mut back, mut there) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut there, &mut back));
            thread::spawn(move || io::copy(&mut from, &mut to));
        }
    });
    port
}

#[tokio::test]
async fn what_keeps_the_sessions_settings_to_itself_is_refused() {
    let server = Server::shared();
    let url = server.database().await;
    // As a pooler does that was told to ignore `options`.
    let forgets = between(server.port(), |message| {
        let at = message.windows(8).position(|name| name == b"options\0").expect("options are sent");
        let value = at + 8;
        let end = value + message[value..].iter().position(|byte| *byte == 0).unwrap() + 1;
        message.drain(at..end);
    });
    let error = refused(&url.replace(&server.port().to_string(), &forgets.to_string())).await;
    assert!(!error.may_pass() && error.to_string().contains("PgBouncer"), "{error}");
    let unchanged = between(server.port(), |_| {});
    let url = url.replace(&server.port().to_string(), &unchanged.to_string());
    connect(&url, Purpose::Lane).await.unwrap();
}

#[tokio::test]
async fn an_address_that_accepts_and_says_nothing_is_given_up() {
    let server = Server::shared();
    let url = server.database().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let alone = url.replace(&server.port().to_string(), &silent_port.to_string());
    let error = refused(&format!("{alone}?connect_timeout=1")).await;
    assert!(error.to_string().contains("no answer within 1 s"), "{error}");
    let two = url.replace('@', &format!("@127.0.0.1:{silent_port},"));
    connect(&format!("{two}?connect_timeout=1"), Purpose::Lane).await.unwrap();
}

#[tokio::test]
async fn a_servers_certificate_must_be_for_its_name_and_of_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (right, other) = (directory.path().join("right"), directory.path().join("other"));
    let names = ["localhost".parse().unwrap()];
    let made = development_certificates(&right, &names).unwrap();
    let stranger = development_certificates(&other, &names).unwrap();
    let read = |path: &std::path::Path| fs::read(path).unwrap();
    let files = [
        ("server.crt", read(&made.nodes[0].certificate)),
        ("server.key", read(&made.nodes[0].key)),
        ("ca.crt", read(&made.authority)),
        // Nobody without a certificate, and nobody without TLS.
        (
            "pg_hba.conf",
            b"hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nlocal all all trust\n"
                .to_vec(),
        ),
    ];
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let server = Server::start_with(&[("ssl", "on"), ("ssl_ca_file", "ca.crt")], &files);
    let own = format!("&sslcert={}&sslkey={}", made.client.certificate.display(), made.client.key.display());
    let url = |host: &str, authority: &std::path::Path, own: &str| {
        let plain = server.url("postgres").replace("127.0.0.1", host);
        format!("{plain}?sslrootcert={}{own}", authority.display())
    };
    let mut link = connect(&url("localhost", &made.authority, &own), Purpose::Lane).await.unwrap();
    let row =
        link.run(|client| client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]));
    assert!(row.await.unwrap().get::<_, bool>(0));
    let cases = [
        (url("127.0.0.1", &made.authority, &own), "not valid for name"),
        (url("localhost", &stranger.authority, &own), "invalid peer certificate"),
        (url("localhost", &made.authority, ""), "certificate"),
        (server.url("postgres"), "no pg_hba.conf entry"),
    ];
    for (url, why) in cases {
        let error = refused(&url).await;
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_no_plain_word_from_who_asks_for_it() {
    let server = Server::shared();
    let directory = tempfile::tempdir().unwrap();
    let made = development_certificates(directory.path(), &["localhost".parse().unwrap()]).unwrap();
    let url = format!("{}?sslrootcert={}", server.database().await, made.authority.display());
    let error = refused(&url).await;
    assert!(error.to_string().contains("does not support TLS"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_sync_is_refused_and_its_settings_are_reported() {
    let mut server = Server::start_with(&[("fsync", "off"), ("full_page_writes", "off")], &[]);
    let url = server.database().await;
    let mut link = connect(&url, Purpose::Start).await.unwrap();
    let demands = Demands { connections: 9, ..Demands::default() };
    let error = report(&mut link, "the server", demands).await.unwrap_err();
    assert!(error.to_string().contains("unsafe_fsync"), "{error}");
    let accepted = report(&mut link, "the server", Demands { unsafe_fsync: true, ..demands }).await.unwrap();
    let text = accepted.to_string();
    assert!(text.contains("the server: PostgreSQL") && text.contains("full_page_writes"), "{text}");
    assert_eq!((accepted.warnings.len(), accepted.connections_max), (2, 97));
    let sync = Demands { unsafe_fsync: true, require_sync: true, ..demands };
    let error = report(&mut link, "the server", sync).await.unwrap_err();
    assert!(error.to_string().contains("--require-sync"), "{error}");
    server.stop(Stop::Immediate);
    let error = report(&mut link, "the server", demands).await.unwrap_err();
    assert!(error.to_string().contains("cannot ask the server"), "{error}");
}

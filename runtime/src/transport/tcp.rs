//! TCP, plain: for loopback, unless somebody insists.

use super::{Boxed, Insecure, Listener, Opening, Stream, Transport};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::net::{TcpListener, TcpStream, lookup_host};

/// Plain TCP. Everyone on the way can read and change what is said, and anyone can claim any name.
#[derive(Debug, Clone)]
pub struct Tcp {
    /// Addresses beyond loopback too.
    anywhere: bool,
}

impl Tcp {
    /// Only between processes of one machine.
    pub fn loopback() -> Self {
        Self { anywhere: false }
    }

    /// Wherever it is told to: for networks nobody else is on.
    pub fn insecure() -> Self {
        Self { anywhere: true }
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let with = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("{address:?} is not an address, or cannot be resolved: {error}"),
            )
        };
        let found: Vec<_> = lookup_host(address).await.map_err(with)?.collect();
        let beyond = found.iter().find(|found| !self.anywhere && !is_loopback(found.ip()));
        if let Some(beyond) = beyond {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "plain TCP is for loopback and {beyond} lies beyond it: give the node its certificate, or allow it by --insecure"
                ),
            ));
        }
        Ok(found)
    }

    pub(super) async fn bind(&self, address: &str) -> io::Result<TcpListener> {
        let found = self.resolve(address).await?;
        let with =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"));
        TcpListener::bind(&*found).await.map_err(with)
    }

    pub(super) async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let found = self.resolve(address).await?;
        let stream = TcpStream::connect(&*found).await?;
        // Frames are batched here; the machine need not wait for more.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The next connection, ready to be used.
pub(super) async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, String)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, address.to_string()))
}

pub(super) fn address(listener: &TcpListener) -> String {
    listener.local_addr().expect("a listener has an address").to_string()
}

impl Transport for Tcp {
    fn listen<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(self.bind(address).await?) as Box<dyn Listener>) })
    }

    fn dial<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Opening>> {
        Box::pin(async move { Ok(plain(self.connect(address).await?, address.to_owned())) })
    }
}

impl Listener for TcpListener {
    fn address(&self) -> String {
        address(self)
    }

    fn accept(&mut self) -> Boxed<'_, io::Result<Opening>> {
        Box::pin(async {
            let (stream, address) = accept(self).await?;
            Ok(plain(stream, address))
        })
    }
}

fn plain(stream: TcpStream, address: String) -> Opening {
    let secured = async { Ok::<_, Insecure>(Stream { io: Box::new(stream), certified: None }) };
    Opening { address, secured: Box::pin(secured) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beyond_loopback_nothing_is_plain_unless_somebody_insists() {
        for address in ["0.0.0.0:0", "[::]:0", "10.1.2.3:7001", "[::ffff:10.1.2.3]:7001"] {
            let refused = Tcp::loopback().resolve(address).await.expect_err(address);
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            assert!(refused.to_string().contains("--insecure"), "{refused}");
            assert_eq!(Tcp::insecure().resolve(address).await.unwrap().len(), 1);
        }
        for address in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0"] {
            assert_eq!(Tcp::loopback().resolve(address).await.unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_an_address_is_said() {
        let error = Tcp::loopback().resolve("nowhere").await.expect_err("no port").to_string();
        assert!(error.contains("\"nowhere\" is not an address"), "{error}");
        let taken = Tcp::loopback().bind("127.0.0.1:0").await.unwrap();
        let address = address(&taken);
        let error = Tcp::loopback().bind(&address).await.expect_err("taken").to_string();
        assert!(error.contains(&format!("cannot listen at {address}")), "{error}");
    }
}

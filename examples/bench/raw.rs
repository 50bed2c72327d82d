//! The floor of every remote figure: messages of the same size over a plain connection, in batches, with `MessagePack` and
//! nothing else.

use crate::machine::rate;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

#[derive(Serialize, Deserialize)]
struct Ping {
    slot: u64,
    cents: u64,
    memo: String,
}

/// Echoes per second with so many outstanding: a batch is written at once, and so are its answers.
pub(crate) fn measure(outstanding: u64, time: Duration) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = std::thread::spawn(move || -> Result<()> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let (mut reader, mut stream) = (BufReader::new(stream.try_clone()?), stream);
        while let Ok(pings) = batch(&mut reader) {
            let answers: Vec<(u64, u64)> = pings.iter().map(|ping: &Ping| (ping.slot, ping.cents)).collect();
            send(&mut stream, &answers)?;
        }
        Ok(())
    });
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut reader, mut stream) = (BufReader::new(stream.try_clone()?), stream);
    let (started, mut done) = (Instant::now(), 0);
    // Two halves, so that one is on its way while the other is read.
    let half = outstanding / 2;
    let pings = |from: u64| -> Vec<Ping> {
        (from..from + half)
            .map(|slot| Ping { slot, cents: slot, memo: format!("rent and heating, payment {slot:09}") })
            .collect()
    };
    send(&mut stream, &pings(0))?;
    while started.elapsed() < time {
        send(&mut stream, &pings(done))?;
        let answers: Vec<(u64, u64)> = batch(&mut reader)?;
        done += answers.len() as u64;
    }
    let per_second = done as f64 / started.elapsed().as_secs_f64();
    drop((reader, stream));
    server.join().ok().context("the server thread ended")??;
    println!(
        "raw echo      {outstanding} outstanding, batches of MessagePack over TCP: {}",
        rate(per_second)
    );
    Ok(per_second)
}

fn send<T: Serialize>(stream: &mut TcpStream, batch: &[T]) -> Result<()> {
    let mut bytes = vec![0; 4];
    rmp_serde::encode::write(&mut bytes, batch)?;
    let len = u32::try_from(bytes.len() - 4)?;
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    Ok(stream.write_all(&bytes)?)
}

fn batch<T: for<'de> Deserialize<'de>>(reader: &mut impl Read) -> Result<Vec<T>> {
    let mut len = [0; 4];
    reader.read_exact(&mut len)?;
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    reader.read_exact(&mut bytes)?;
    Ok(rmp_serde::from_slice(&bytes)?)
}

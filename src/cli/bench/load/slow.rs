//! A client that reads slowly: a relay on loopback that takes the server's words a few bytes at a time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BYTES: usize = 64;
const PAUSE: Duration = Duration::from_millis(50);

/// Opens the relay to `server`; it lives as long as the runtime.
pub(super) async fn relay(server: String) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move { both_ways(client, &server).await });
        }
    });
    Ok(address)
}

/// Ends with either side.
async fn both_ways(client: TcpStream, server: &str) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let slowly = async {
        let mut bytes = [0; BYTES];
        loop {
            match from_server.read(&mut bytes).await? {
                0 => return to_client.shutdown().await,
                read => to_client.write_all(&bytes[..read]).await?,
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        sent = tokio::io::copy(&mut from_client, &mut to_server) => sent.map(drop),
        received = slowly => received,
    }
}

//! One client's connection: two directions, cut together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::protocol::{CommitWatch, Frame};
use super::{CommitFate, Control};

/// Why a direction ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// One side has closed the connection.
    Closed,
    /// A fault has come true.
    Cut,
}

/// Passes messages on until one side closes or a fault cuts both.
pub(super) async fn serve(mut client: TcpStream, server: SocketAddr, control: Arc<Control>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut cuts = control.cuts.subscribe();
    let end = tokio::select! {
        end = pass_on(&mut client, &mut server, &control) => end.unwrap_or(End::Closed),
        _ = cuts.changed() => End::Cut,
    };
    if end == End::Cut {
        // Both sides see a reset, not an orderly end.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pass_on(
    client: &mut TcpStream,
    server: &mut TcpStream,
    control: &Control,
) -> io::Result<End> {
    let (client_in, mut client_out) = client.split();
    let (server_in, mut server_out) = server.split();
    let (mut client_in, mut server_in) = (BufReader::new(client_in), BufReader::new(server_in));
    loop {
        let Some(startup) = Frame::read_startup(&mut client_in).await? else {
            return Ok(End::Closed);
        };
        if !startup.asks_for_encryption() {
            server_out.write_all(startup.bytes()).await?;
            break;
        }
        client_out.write_all(b"N").await?;
    }
    let losing_reply = AtomicBool::new(false);
    tokio::select! {
        end = upstream(&mut client_in, &mut server_out, control, &losing_reply) => end,
        end = downstream(&mut server_in, &mut client_out, control, &losing_reply) => end,
    }
}

async fn upstream(
    input: &mut (impl AsyncRead + Unpin),
    output: &mut (impl AsyncWrite + Unpin),
    control: &Control,
    losing_reply: &AtomicBool,
) -> io::Result<End> {
    let mut watch = CommitWatch::default();
    while let Some(frame) = Frame::read(input).await? {
        control.wait_delay().await;
        if watch.commits(&frame) {
            match control.commit() {
                CommitFate::Forward => {}
                CommitFate::Lose => return Ok(End::Cut),
                CommitFate::LoseReply => losing_reply.store(true, Ordering::SeqCst),
            }
        }
        if !forward(&frame, output, control, false).await? {
            return Ok(End::Cut);
        }
    }
    Ok(End::Closed)
}

async fn downstream(
    input: &mut (impl AsyncRead + Unpin),
    output: &mut (impl AsyncWrite + Unpin),
    control: &Control,
    losing_reply: &AtomicBool,
) -> io::Result<End> {
    while let Some(frame) = Frame::read(input).await? {
        control.wait_delay().await;
        if frame.is_commit_complete() && losing_reply.load(Ordering::SeqCst) {
            control.fire();
            return Ok(End::Cut);
        }
        if !forward(&frame, output, control, true).await? {
            return Ok(End::Cut);
        }
    }
    Ok(End::Closed)
}

/// Writes the part of a message that may pass; `false` when that was not all of it.
async fn forward(
    frame: &Frame,
    output: &mut (impl AsyncWrite + Unpin),
    control: &Control,
    from_server: bool,
) -> io::Result<bool> {
    let bytes = frame.bytes();
    let allowed = control.allowance(bytes.len(), from_server);
    output.write_all(&bytes[..allowed]).await?;
    Ok(allowed == bytes.len())
}

//! A plugin whose behaviour the tests choose: a real process that speaks the real protocol.
//!
//! It takes the arguments that CloudQuery gives to a plugin. What it does is said by words in the
//! variable `SCRIPT`, separated by spaces; a behaviour has a module of its own:
//!
//! | word | module | what |
//! |---|---|---|
//! | `no-unix`, `exit=CODE`, `hang`, `deaf`, `http1`, `stubborn`, `child=FILE`, `note=FILE` | [`start`] | how it starts and ends |
//! | `versions=0,1`, `old-discovery=v1`, `no-discovery` | [`discovery`] | which protocol it speaks |
//! | `destination=FOLDER` and what is listed there | [`destination`] | what it does with rows |
//! | `source=FILE` | [`source`] | what it sends |
//! | `transformer` and what is listed there | [`transformer`] | what rows become |
//! | `noise`, `levels` | [`noise`] | what it logs |
//! | `die=CODE`, `status=CODE`, `leak`, `size=BYTES` | [`plugin`] | what its calls do |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destination;
mod discovery;
mod noise;
mod plugin;
mod script;
mod source;
mod start;
mod transformer;

use highwater_cloudquery::proto::plugin::plugin_server::PluginServer;
use script::Script;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

#[tokio::main]
async fn main() {
    let script = Script::read();
    start::before_listening(&script);
    noise::make(&script);

    let mut builder = Server::builder();
    let router = builder.add_service(
        PluginServer::new(plugin::Scripted::new(&script))
            .max_decoding_message_size(200 << 20)
            .max_encoding_message_size(usize::MAX),
    );
    let router = discovery::add(router, &script);
    let end = start::end(&script);
    if script.network() == "unix" {
        let listener = tokio::net::UnixListener::bind(script.address()).unwrap();
        router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), end).await.unwrap();
        let _ = std::fs::remove_file(script.address());
    } else {
        let listener = tokio::net::TcpListener::bind(script.address()).await.unwrap();
        router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), end).await.unwrap();
    }
    start::after_serving(&script);
}

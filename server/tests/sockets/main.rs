//! The server over real sockets: both protocols, port 0, the fake runtime.

mod harness;
mod life;
mod parity;

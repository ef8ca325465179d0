//! Text in front of any runtime: what a folder says of it, its tokenizer, the threads that tokenize, and a model that takes
//! text where the one behind it takes tokens.
//!
//! A request's text becomes tokens before it is queued ([`Stage::tokens`]), so that the batcher sees lengths; what comes to
//! an instance as text nevertheless is tokenized there.
//!
//! What is absent: nothing here knows a protocol, a route or a batch.

mod error;
mod folder;
mod front;
mod pool;
mod settings;
mod tokenizer;
mod vectors;

pub use error::TextError;
pub use folder::Folder;
pub use front::{Front, Stage, Staged, TEXT, TEXT_PAIR};
pub use pool::Pool;
pub use settings::{Pooling, Settings};
pub use tokenizer::{Cut, Text, Tokenized};

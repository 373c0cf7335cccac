//! Small helpers that several crates need, each defined once: file access beneath an open directory, atomic file
//! publication, reading files that a user named, words of a shell, SHA-256 in hexadecimal, URL escaping, delays between retries, names of the data of a service, frames on a connection, (feature `http`)
//! one HTTP exchange over a Unix socket, (feature `http-client`) a pooled HTTP client with TLS, and (feature `sse`) a
//! decoder of server-sent events.
//!
//! Deliberately absent: everything that knows a noun of Abbey. This crate depends on no other crate of the workspace.

pub mod beneath;
pub mod digest;
pub mod file;
pub mod frame;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http-client")]
pub mod http_client;
pub mod input;
pub mod retry;
pub mod service_data;
pub mod shell;
pub mod space;
#[cfg(feature = "sse")]
pub mod sse;
pub mod url;

//! Requests to the operator API and the agent API over their Unix sockets.

use crate::house::{House, WITHIN};
use abbey_support::http::{Limits, exchange_unix_blocking};
use bytes::Bytes;
use hyper::{Method, Request as HttpRequest, Response};
use serde_json::Value;
use std::path::PathBuf;

/// Largest response that a test reads.
const BODY_MAX: usize = 64 << 20;

/// One request that is built, and then sent.
#[derive(Debug)]
pub struct Request {
    socket: PathBuf,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// A request to the server at a Unix socket.
    pub fn to(socket: PathBuf, method: &str, path: &str) -> Request {
        Request {
            socket,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// Adds the caller's credential as bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Request {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds several headers.
    #[must_use]
    pub fn headers(self, headers: &[(&str, &str)]) -> Request {
        let add = |request: Request, (name, value): &(&str, &str)| request.header(name, value);
        headers.iter().fold(self, add)
    }

    /// Sets the body to a JSON document.
    #[must_use]
    pub fn json(self, body: &Value) -> Request {
        self.header("content-type", "application/json")
            .text(&body.to_string())
    }

    /// Sets the body as it is.
    #[must_use]
    pub fn text(mut self, body: &str) -> Request {
        body.clone_into(&mut self.body);
        self
    }

    /// Sends the request and returns status and JSON body; a body that is not JSON is null.
    ///
    /// # Panics
    /// If there is no response.
    pub fn send(&self) -> (u16, Value) {
        let name = format!("{} {}", self.method, self.path);
        self.attempt()
            .unwrap_or_else(|e| panic!("no response to {name}: {e}"))
    }

    /// Sends the request to a server that may not answer, and returns status and body.
    ///
    /// # Errors
    /// If there is no complete response.
    ///
    /// # Panics
    /// If the request cannot be written as HTTP.
    pub fn attempt(&self) -> std::io::Result<(u16, Value)> {
        let response = self.exchange()?;
        let body = serde_json::from_slice(response.body()).unwrap_or_default();
        Ok((response.status().as_u16(), body))
    }

    /// The whole response with its headers.
    ///
    /// # Errors
    /// When there is no whole response.
    ///
    /// # Panics
    /// When the request cannot be written as HTTP.
    pub fn exchange(&self) -> std::io::Result<Response<Bytes>> {
        let method: Method = self.method.parse().expect("a method");
        let mut request = HttpRequest::builder().method(method).uri(&self.path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(self.body.clone().into()).expect("a request");
        let limits = Limits {
            within: WITHIN,
            body_max: BODY_MAX,
        };
        exchange_unix_blocking(&self.socket, request, limits)
    }
}

impl House {
    /// A request to the operator API with this method and path.
    pub fn operator_api(&self, method: &str, path: &str) -> Request {
        Request::to(self.home().join("run/operator.sock"), method, path)
    }

    /// A request to the agent API with this method and path.
    pub fn agent_api(&self, method: &str, path: &str) -> Request {
        Request::to(self.home().join("run/inside.sock"), method, path)
    }
}

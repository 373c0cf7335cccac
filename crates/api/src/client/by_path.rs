use super::*;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Value of `ETag`.
    pub etag: Option<String>,
    /// Body; null when empty.
    pub body: Value,
}

macro_rules! by_path {
    ($($client:ident)*) => {$(
        #[allow(missing_docs, clippy::missing_errors_doc)]
        impl $client {
            pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
                let call = Call::new(Method::GET, path, &[]);
                Ok(self.0.document(call).await?.document)
            }

            pub async fn post<T: DeserializeOwned>(
                &self,
                path: &str,
                body: &impl Serialize,
                headers: &[(&str, String)],
            ) -> Result<T, Error> {
                let mut call = Call::new(Method::POST, path, &[]);
                call.body(body)?;
                add(&mut call, headers);
                Ok(self.0.document(call).await?.document)
            }

            pub async fn send(
                &self,
                method: Method,
                path: &str,
                body: Option<Value>,
                headers: &[(&str, String)],
            ) -> Result<Answer, Error> {
                let mut call = Call::new(method, path, &[]);
                if let Some(body) = body {
                    call.body(&body)?;
                }
                add(&mut call, headers);
                let answer = self.0.document::<Value>(call).await?;
                Ok(Answer {
                    status: StatusCode::OK,
                    etag: answer.version.map(|v| v.to_string()),
                    body: answer.document,
                })
            }

            pub async fn upgrade(&self, path: &str, protocol: &str) -> Result<Upgraded, Error> {
                self.0.upgrade(Call::new(Method::GET, path, &[]), protocol).await
            }

            pub async fn open(
                &self,
                method: Method,
                path: &str,
                body: Option<Value>,
                headers: &[(&str, String)],
            ) -> Result<Response<hyper::body::Incoming>, Error> {
                let mut call = Call::new(method, path, &[]);
                if let Some(body) = body {
                    call.body(&body)?;
                }
                add(&mut call, headers);
                self.0.exchange(call).await
            }
        }
    )*};
}
by_path!(Client AgentClient);

fn add(call: &mut Call, headers: &[(&str, String)]) {
    for (name, value) in headers {
        let known = [
            "idempotency-key",
            "if-match",
            "last-event-id",
            "abbey-lease",
            "abbey-run",
        ];
        let name = known.into_iter().find(|k| k.eq_ignore_ascii_case(name));
        if let Some(name) = name {
            call.headers.push((name, value.clone()));
        }
    }
}

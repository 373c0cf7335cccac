//! The operations that the client calls, as the tests of the API compare them with the OpenAPI documents.

use std::borrow::Cow;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::{RefOr, schema};
use utoipa::{PartialSchema, ToSchema};

/// Named schemas of a document's components.
pub type Components = Vec<(String, RefOr<schema::Schema>)>;

/// One operation of the client.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// HTTP method.
    pub method: &'static str,
    /// Path with its `{parameters}`.
    pub path: &'static str,
    /// Query parameters.
    pub query: fn() -> Vec<Parameter>,
    /// Body of the request.
    pub body: Option<Schema>,
    /// Document that a success answers with.
    pub answer: Option<Schema>,
    /// Request headers, in lower case.
    pub headers: &'static [&'static str],
}

/// Schema of a type, by name.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Name among the components.
    pub name: fn() -> Cow<'static, str>,
    schema: fn() -> RefOr<schema::Schema>,
    parts: fn(&mut Components),
}

impl Schema {
    /// Schema of a type of the API.
    pub(crate) const fn of<T: ToSchema>() -> Self {
        Schema {
            name: T::name,
            schema: <T as PartialSchema>::schema,
            parts: T::schemas,
        }
    }

    /// Adds the schema and everything that it refers to.
    pub fn add_to(&self, all: &mut Components) {
        all.push(((self.name)().into_owned(), (self.schema)()));
        (self.parts)(all);
    }
}

//! Declarations of documents, requests, queries and operations.

/// Answers of the house. Readers ignore keys that they don't know, so keys can be added.
macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}
pub(crate) use documents;

/// Bodies of requests. Unknown keys are refused, so that a misspelt one is noticed.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}
pub(crate) use requests;

/// Query parameters of operations; each may be absent, and unknown ones are refused.
macro_rules! queries {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize, utoipa::IntoParams)]
        #[serde(default, deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}
pub(crate) use queries;

/// Operations of the client, grouped by what they are about: a method each, and a row in the list that tests compare
/// with the OpenAPI documents, which are made from the handlers.
///
/// `METHOD "path" name(path parameters) [query T] [body T] [header name: T] -> answer;`, where the answer is
/// `json(T)`, `versioned(T)` (with its `ETag`), `stream`, or `upgrade("protocol")`.
macro_rules! operations {
    ($(#[$doc:meta])* $client:ident { $(
        $(#[$odoc:meta])*
        $method:ident $path:literal $name:ident($($segment:ident),*)
        $([query $query:ty])? $([body $body:ty])? $([header $header:ident: $htype:ty])* -> $kind:ident $(($($answer:tt)*))?;
    )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $client<'c>(pub(crate) &'c $crate::transport::Transport);

        impl $client<'_> {
            $(
                $(#[$odoc])*
                ///
                /// # Errors
                /// When the house can't be reached, or refuses.
                pub async fn $name(
                    self, $($segment: &str,)* $(query: &$query,)? $(body: &$body,)? $($header: $htype,)*
                ) -> Result<$crate::macros::answer!(type $kind $(($($answer)*))?), $crate::transport::Error> {
                    #[allow(unused_mut)]
                    let mut call = $crate::transport::Call::new(hyper::Method::$method, $path, &[$((stringify!($segment), $segment)),*]);
                    $(call.query::<$query>(query)?;)?
                    $(call.body::<$body>(body)?;)?
                    $(call.header::<$htype>(&$header);)*
                    $crate::macros::answer!(send self.0, call, $kind $(($($answer)*))?)
                }
            )*

            pub(crate) const OPERATIONS: &'static [$crate::operation::Operation] = &[$(
                $crate::operation::Operation {
                    method: stringify!($method),
                    path: $path,
                    query: $crate::macros::first!($(|| <$query as utoipa::IntoParams>::into_params(|| None))?; Vec::new),
                    body: $crate::macros::first!($(Some($crate::operation::Schema::of::<$body>()))?; None),
                    answer: $crate::macros::answer!(schema $kind $(($($answer)*))?),
                    headers: &[$(<$htype as $crate::headers::HeaderField>::NAME),*],
                },
            )*];
        }
    };
}
pub(crate) use operations;

/// Parts of an operation that depend on the kind of its answer.
macro_rules! answer {
    (type json($type:ty)) => { $type };
    (type versioned($type:ty)) => { $crate::transport::Versioned<$type> };
    (type stream) => { $crate::transport::Streaming };
    (type upgrade($protocol:literal)) => { hyper::upgrade::Upgraded };
    (send $transport:expr, $call:ident, json($type:ty)) => { Ok($transport.document($call).await?.document) };
    (send $transport:expr, $call:ident, versioned($type:ty)) => { $transport.document($call).await };
    (send $transport:expr, $call:ident, stream) => { $transport.stream($call).await };
    (send $transport:expr, $call:ident, upgrade($protocol:literal)) => { $transport.upgrade($call, $protocol).await };
    (schema json($type:ty)) => { Some($crate::operation::Schema::of::<$type>()) };
    (schema versioned($type:ty)) => { Some($crate::operation::Schema::of::<$type>()) };
    (schema stream) => { None };
    (schema upgrade($protocol:literal)) => { None };
}
pub(crate) use answer;

/// The first expression that is there.
macro_rules! first {
    ($first:expr; $default:expr) => {
        $first
    };
    (; $default:expr) => {
        $default
    };
}
pub(crate) use first;

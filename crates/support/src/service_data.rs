//! Names in the directory of a stock service, by which it and hostd tell lost data from a service that never had any.

/// Directory with the data of the service.
pub const DIRECTORY: &str = "data";
/// File with the name of the kind that the data is of.
pub const KIND: &str = "kind";
/// Files that a service writes only once it has data: the certificate of a database server, the registry of consumers.
pub const MARKS: [&str; 2] = ["server.pem", "consumers.json"];

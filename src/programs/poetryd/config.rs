//! A file that says which services to run.
//!
//! Its keys are flags: those of poetryd at the top, those of a program in the tables of its name. There is no list of
//! them here, so that a flag that is added to a program is a key of the file, too.

use std::net::SocketAddr;
use std::path::Path;

use super::{Launch, NO_SERVICE, Options};
use crate::cli::Error;
use crate::cli::listen::ListenArgs;
use crate::cli::toml_args::{File, TomlTable};
use crate::programs::fastpoetry::FastArgs;
use crate::programs::poetry_proxy::ProxyArgs;
use crate::programs::transformedpoetry::TransformArgs;

type Read = fn(&TomlTable<'_>) -> Result<Box<dyn Launch>, Error>;

/// The programs that can be services, by the names of their tables.
const PROGRAMS: [(&str, Read); 3] = [
    ("fastpoetry", |table| Ok(Box::new(table.args::<FastArgs>(&[])?))),
    ("transformedpoetry", |table| Ok(Box::new(table.args::<TransformArgs>(&[])?))),
    ("poetry-proxy", |table| Ok(Box::new(table.args::<ProxyArgs>(&[])?))),
];

/// A service of the file, and where it is found there: `FILE:LINE`.
pub(super) type Found = (String, Box<dyn Launch>);

/// Reads a file: poetryd's own options, and the services in the order of the file.
///
/// # Errors
/// It cannot be read, or something in it makes no sense; what can be known before anything is opened is checked.
pub(super) fn read(path: &Path) -> Result<(Options, Vec<Found>), Error> {
    let file = File::read(path)?;
    let parsed = file.parse()?;
    let whole = file.table(&parsed);
    if whole.has("slowpoetry") {
        return Err(whole.wrong("slowpoetry", NO_SERVICE));
    }
    let options: Options = whole.args(&PROGRAMS.map(|(name, _)| name))?;
    if options.user.is_some() {
        options.identity().map_err(|error| error.after(&format!("{}: ", whole.place("user"))))?;
    }
    let mut tables = Vec::new();
    for (name, read) in PROGRAMS {
        tables.extend(whole.tables(name)?.into_iter().map(|table| (table, read)));
    }
    if tables.is_empty() {
        return Err(
            whole.wrong("", "there is no service: write [[fastpoetry]], [[transformedpoetry]] or [[poetry-proxy]]")
        );
    }
    tables.sort_by_key(|(table, _)| table.line());
    let mut services = Vec::new();
    let mut taken: Vec<(SocketAddr, usize)> = Vec::new();
    for (table, read) in tables {
        let service = read(&table)?;
        service.check().map_err(|(key, error)| error.after(&format!("{}: {key}: ", table.place(key))))?;
        if let Some(address) = address(&service.common().listen) {
            free(address, &taken).map_err(|what| table.wrong("port", &format!("port: {what}")))?;
            taken.push((address, table.line()));
        }
        services.push((table.place(""), service));
    }
    if let Some(address) = options.metrics.as_ref().and_then(address) {
        free(address, &taken).map_err(|what| whole.wrong("metrics", &format!("metrics: {what}")))?;
    }
    Ok((options, services))
}

/// The address that a service will have, as far as that is known: port 0 is any free one, and a name that cannot be
/// resolved here may be one where the service runs.
fn address(listen: &ListenArgs) -> Option<SocketAddr> {
    listen.address().ok().filter(|address| address.port() != 0)
}

/// Whether none of the services, which are named by their lines, has this address.
fn free(address: SocketAddr, taken: &[(SocketAddr, usize)]) -> Result<(), String> {
    let same = |(other, _): &&(SocketAddr, usize)| {
        let (one, other) = (address.ip(), other.ip());
        // The unspecified address is every one of its family.
        one == other || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
    };
    let port = address.port();
    match taken.iter().filter(|(other, _)| other.port() == port).find(same) {
        Some((_, line)) => Err(format!("{port} is that of the service in line {line}, too")),
        None => Ok(()),
    }
}

//! A file that says which services to run.
//!
//! Its keys are flags: those of poetryd at the top, those of a program in the tables of its name. There is no list of
//! them here, so that a flag that is added to a program is a key of the file, too.

use std::path::Path;

use super::{NO_SERVICE, Options, Service};
use crate::cli::Error;
use crate::cli::fastpoetry::FastArgs;
use crate::cli::poetry_proxy::ProxyArgs;
use crate::cli::tables::{File, Table};
use crate::cli::transformedpoetry::TransformArgs;

type Read = fn(&Table<'_>) -> Result<Box<dyn Service>, Error>;

/// The programs that can be services, by the names of their tables.
const PROGRAMS: [(&str, Read); 3] = [
    ("fastpoetry", |table| Ok(Box::new(table.args::<FastArgs>(&[])?))),
    ("transformedpoetry", |table| Ok(Box::new(table.args::<TransformArgs>(&[])?))),
    ("poetry-proxy", |table| Ok(Box::new(table.args::<ProxyArgs>(&[])?))),
];

/// A service of the file, and where it is found there: `FILE:LINE`.
pub(super) type Found = (String, Box<dyn Service>);

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
    let mut services: Vec<(Table<'_>, Box<dyn Service>)> = Vec::new();
    for (table, read) in tables {
        let service = read(&table)?;
        service.check().map_err(|(key, error)| error.after(&format!("{}: {key}: ", table.place(key))))?;
        let port = service.service().listen.port;
        let same = |(_, other): &&(Table<'_>, Box<dyn Service>)| {
            port != 0
                && port == other.service().listen.port
                && service.service().listen.iface == other.service().listen.iface
        };
        if let Some((other, _)) = services.iter().find(same) {
            let line = other.line();
            return Err(table.wrong("port", &format!("port: {port} is that of the service in line {line}, too")));
        }
        services.push((table, service));
    }
    Ok((options, services.into_iter().map(|(table, service)| (table.place(""), service)).collect()))
}

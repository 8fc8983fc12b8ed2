//! A file that says which services to run.
//!
//! Its keys are flags: those of poetryd at the top, those of a program in the tables of its name. There is no list of
//! them here, so that a flag that is added to a program is a key of the file, too.

use std::net::SocketAddr;
use std::path::Path;

use super::program::{NO_SERVICE, any_of};
use super::{Options, Resolved};
use crate::cli::Error;
use crate::cli::listen::ListenArgs;
use crate::cli::toml_args::File;
use crate::net::dial::leads_to;
use crate::programs::SERVICES;

/// Reads a file: poetryd's own options, and the services in the order of the file.
///
/// # Errors
/// It cannot be read, or something in it makes no sense; what can be known before anything is opened is checked.
pub(super) fn read(path: &Path) -> Result<(Options, Vec<Resolved>), Error> {
    let file = File::read(path)?;
    let parsed = file.parse()?;
    let whole = file.table(&parsed);
    if whole.has("slowpoetry") {
        return Err(whole.wrong("slowpoetry", NO_SERVICE));
    }
    let options: Options = whole.args(&SERVICES.iter().map(|program| program.name).collect::<Vec<_>>())?;
    if options.user.is_some() {
        options.identity().map_err(|error| error.prefixed(&format!("{}: ", whole.place("user"))))?;
    }
    let mut tables = Vec::new();
    for program in SERVICES {
        tables.extend(whole.tables(program.name)?.into_iter().map(|table| (table, program)));
    }
    if tables.is_empty() {
        let tables = any_of(|program| format!("[[{}]]", program.name));
        return Err(whole.wrong("", &format!("there is no service: write {tables}")));
    }
    tables.sort_by_key(|(table, _)| table.line());
    let mut services = Vec::new();
    let mut taken: Vec<(SocketAddr, usize)> = Vec::new();
    let mut proxies: Vec<Proxy> = Vec::new();
    for (table, program) in tables {
        let launch = (program.from_table)(&table)?;
        let wrong = |(key, error): (&str, Error)| error.prefixed(&format!("{}: {key}: ", table.place(key)));
        launch.check().map_err(wrong)?;
        let open = launch.resolve().map_err(wrong)?;
        for address in launch.doors().iter().filter_map(|door| door.listen.fixed()) {
            free(address, &taken).map_err(|what| table.wrong("port", &format!("port: {what}")))?;
            taken.push((address, table.line()));
        }
        if let Some(upstream) = launch.upstream() {
            let doors = launch.doors().iter().filter_map(|door| door.listen.fixed()).collect();
            proxies.push(Proxy { line: table.line(), upstream: upstream.known(), doors });
            if let Some(lines) = circle(&proxies) {
                return Err(table.wrong("upstream", &format!("upstream: a circle of proxies, in lines {lines}")));
            }
        }
        services.push(Resolved { prefix: format!("{}: {}: ", table.place(""), program.name), launch, open });
    }
    if let Some(address) = options.metrics.as_ref().and_then(ListenArgs::fixed) {
        free(address, &taken).map_err(|what| whole.wrong("metrics", &format!("metrics: {what}")))?;
    }
    Ok((options, services))
}

/// A service that connects to another one, as far as its addresses are known.
struct Proxy {
    line: usize,
    upstream: Vec<SocketAddr>,
    doors: Vec<SocketAddr>,
}

/// The circle that the last of these closes, if it does: their lines, from it to it.
fn circle(proxies: &[Proxy]) -> Option<String> {
    let last = proxies.last()?;
    let (mut paths, mut seen) = (vec![vec![last]], Vec::new());
    while let Some(path) = paths.pop() {
        let from = path.last()?;
        let leads_there = |to: &&Proxy| to.doors.iter().any(|door| from.upstream.iter().any(|at| leads_to(*at, *door)));
        for to in proxies.iter().filter(leads_there) {
            let longer = [&path[..], &[to]].concat();
            if to.line == last.line {
                return Some(longer.iter().map(|proxy| proxy.line.to_string()).collect::<Vec<_>>().join(" to "));
            }
            if !seen.contains(&to.line) {
                seen.push(to.line);
                paths.push(longer);
            }
        }
    }
    None
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

//! A yardstick of the benchmarks: the standard library's way, a thread for each client.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use clap::Parser;
use poetry_suite::cli::listen::{ListenArgs, announce};
use poetry_suite::cli::{Error, open_files, run};

#[derive(Parser)]
struct Args {
    file: PathBuf,
    #[command(flatten)]
    listen: ListenArgs,
}

fn main() -> std::process::ExitCode {
    run("thread_per_client", |args: Args| {
        open_files::raise_limit();
        let poem: Arc<[u8]> = fs::read(&args.file).map_err(|error| Error::cannot("read", "the poem", &error))?.into();
        let listener = args.listen.bind(4096)?;
        announce("Serving", &listener)?;
        for stream in listener.incoming().flatten() {
            let poem = Arc::clone(&poem);
            let _ = thread::Builder::new().spawn(move || serve(stream, &poem));
        }
        Ok(0)
    })
}

fn serve(mut stream: TcpStream, poem: &[u8]) {
    if stream.write_all(poem).and_then(|()| stream.shutdown(Shutdown::Write)).is_ok() {
        let _ = stream.read(&mut [0]);
    }
}

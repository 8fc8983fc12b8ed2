//! A yardstick of the benchmarks: the standard library's way, a thread for each client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use poetry_suite::cli::listen::Trouble;

fn main() -> std::process::ExitCode {
    poetry_tools::main(
        "thread_per_client",
        |listen| listen.bind(4096, Trouble::default()).map(|listener| vec![listener]),
        accept,
    )
}

fn accept(listener: &TcpListener, poem: &Arc<[u8]>) -> io::Result<()> {
    for stream in listener.incoming().flatten() {
        let poem = Arc::clone(poem);
        // Where there is no thread for it, the client is lost.
        let _ = thread::Builder::new().spawn(move || serve(stream, &poem));
    }
    Ok(())
}

fn serve(mut stream: TcpStream, poem: &[u8]) {
    if stream.write_all(poem).and_then(|()| stream.shutdown(Shutdown::Write)).is_ok() {
        let _ = stream.read(&mut [0]);
    }
}

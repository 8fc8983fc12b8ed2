//! What a program can know of the machine on which it runs, and of itself as a process.

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::thread;
use std::time::SystemTime;

use rustix::system::uname;

use crate::report::Environment;

/// The environment of a run that is about to begin.
pub fn environment() -> Environment {
    let system = uname();
    let kernel = [system.sysname(), system.release(), system.machine()].map(|part| part.to_string_lossy().into_owned());
    let words = env::args_os().skip(1).take(Environment::MOST_ARGUMENTS);
    Environment {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        arguments: words.map(|word| word.to_string_lossy().into_owned()).collect(),
        kernel: kernel.join(" "),
        processor: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| processor(&text)),
        processors: thread::available_parallelism().map_or(1, NonZeroUsize::get),
        governor: fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
            .ok()
            .map(|name| name.trim().to_owned()),
        load: fs::read_to_string("/proc/loadavg").ok().and_then(|text| load(&text)),
        time: SystemTime::now(),
    }
}

/// The most memory that this process has had, in kB of 1,024 bytes.
pub fn peak_rss_kb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// The name of the first processor in proc_cpuinfo(5).
fn processor(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load(loadavg: &str) -> Option<[f64; 3]> {
    let mut averages = loadavg.split_whitespace().map(str::parse);
    let mut next = || averages.next()?.ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        assert_eq!(load("0.32 1.05 12.00 2/345 6789\n"), Some([0.32, 1.05, 12.0]));
        assert_eq!((load(""), load("0.1 0.2")), (None, None));
        let cpuinfo = "processor\t: 0\nmodel name\t: A fast one @ 3 GHz\n\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!((processor(cpuinfo).as_deref(), processor("processor : 0\n")), (Some("A fast one @ 3 GHz"), None));
    }

    #[test]
    fn of_this_process_and_machine_something_is_known() {
        let environment = environment();
        assert!(environment.kernel.starts_with("Linux ") && environment.processors > 0, "{environment:?}");
        assert!(peak_rss_kb() > Some(100));
    }
}

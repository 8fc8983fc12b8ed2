//! CPU time and resident memory of a process and its children: clock_getcpuclockid(3), proc_pid_status(5).

use std::fs;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

/// What a process and its children have used so far.
#[derive(Default, Clone, Copy)]
pub struct Usage {
    /// Processor time, of all threads, also those that have ended.
    pub cpu: Duration,
    /// Resident memory.
    pub rss_kb: u64,
    /// The most that it was.
    pub peak_kb: u64,
}

impl Usage {
    /// That of a process; zero if there is none.
    pub fn of(pid: u32) -> Self {
        let mut all = Self::of_one(pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let child = Self::of(child);
            all.cpu += child.cpu;
            all.rss_kb += child.rss_kb;
            all.peak_kb += child.peak_kb;
        }
        all
    }

    fn of_one(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Self { cpu: clock(pid) + waited_for(pid), rss_kb: field("VmRSS:"), peak_kb: field("VmHWM:") }
    }

    /// What was used since an earlier reading; memory is as it is now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), ..self }
    }
}

/// Processor time in nanoseconds, where proc_pid_stat(5) has ticks of ten milliseconds.
fn clock(pid: u32) -> Duration {
    let pid = i32::try_from(pid).ok().map(Pid::from_raw);
    let read = |pid| ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now).ok();
    pid.and_then(read).map(Duration::from).unwrap_or_default()
}

/// Processor time of children that have ended: fields 16 and 17 of proc_pid_stat(5), in ticks.
fn waited_for(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

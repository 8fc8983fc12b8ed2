//! Dropping privileges: root until the ports are bound, and never again.
//!
//! The result of setresuid(2) is verified: [`Identity::assume`] compares every id of every thread, requires that no
//! capability is left, then tries to regain root and requires that it fails.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    self, Gid, Group, Uid, User, geteuid, getgrouplist, getgroups, getresgid, getresuid, setgid, setgroups, setresgid,
    setresuid, setuid,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::errors::reason;

/// A user that is not root, with the groups of its processes.
#[derive(Debug, Clone)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    /// Supplementary groups, `gid` among them.
    groups: Vec<Gid>,
}

/// Why a process cannot become another user's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No user has this name or number.
    #[error("there is no user named '{0}'")]
    NoSuchUser(String),
    /// No group has this name or number.
    #[error("there is no group named '{0}'")]
    NoSuchGroup(String),
    /// A group without a user would still be root.
    #[error("a group alone is not enough: name a user, too")]
    NoUser,
    /// A number without an entry among the users has no group of its own.
    #[error("user {0} has no group of its own: name one")]
    NoGroup(Uid),
    /// The user asked for is root.
    #[error("user '{0}': that is root")]
    RootUser(String),
    /// The group asked for, or the user's own, is root's.
    #[error("group {0}: that is root's")]
    RootGroup(String),
    /// The users or groups cannot be looked up.
    #[error("cannot look up '{name}': {}", reason(.error))]
    Lookup {
        /// The user or group.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// Only root can become another user.
    #[error("only root can become another user")]
    NotRoot,
    /// A system call failed, named as in its man page. The process is neither what it was nor what it should be.
    #[error("{call} failed: {}", reason(.error))]
    System {
        /// Such as `setresuid(2)`.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The calls succeeded, but the proof failed: this is left of root.
    #[error("privileges are not dropped: {0}")]
    Left(String),
}

impl Identity {
    /// Looks up a user and a group by their names or, if nobody has that name, numbers. Without a group it is the
    /// user's own; the user's further groups come with it (initgroups(3)), but root's, if that is one of them.
    ///
    /// # Errors
    /// The user or group does not exist, or is root's.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Self, Error> {
        let name = user.ok_or(Error::NoUser)?;
        let (uid, user) = find_user(name)?;
        if uid.is_root() {
            return Err(Error::RootUser(name.to_owned()));
        }
        let gid = match (group, &user) {
            (Some(group), _) => find_group(group)?,
            (None, Some(user)) => user.gid,
            (None, None) => return Err(Error::NoGroup(uid)),
        };
        if gid.as_raw() == 0 {
            return Err(Error::RootGroup(group.unwrap_or("0").to_owned()));
        }
        let mut groups = match user {
            Some(user) => {
                let account = CString::new(user.name).map_err(|_| Error::NoSuchUser(name.to_owned()))?;
                getgrouplist(&account, gid).map_err(|error| lookup(name, error))?
            }
            None => vec![gid],
        };
        groups.retain(|group| group.as_raw() != 0);
        Ok(Self { uid, gid, groups })
    }

    /// The number of the user.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The number of the group.
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    /// Makes this process the user's for ever (setgroups(2), setresgid(2), setresuid(2)), and proves it.
    ///
    /// The C library changes the ids of all threads, see nptl(7). Two attributes belong to one thread and pass only to
    /// threads that it starts later: `no_new_privs` (set-user-ID programs give no privileges), and the loss of those
    /// capabilities that outlive a change of user (capset(2)). So call this before other threads are started; a thread
    /// that has kept capabilities is an error.
    ///
    /// # Errors
    /// The process is not root's, the system refuses, or the proof fails. After an error it must not go on: it may be
    /// anything between the two users.
    pub fn assume(&self) -> Result<(), Error> {
        if !geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        call("setgroups(2)", setgroups(&self.groups))?;
        call("setresgid(2)", setresgid(self.gid, self.gid, self.gid))?;
        call("setresuid(2)", setresuid(self.uid, self.uid, self.uid))?;
        let none = CapabilitySet::empty();
        call(
            "capset(2)",
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }),
        )?;
        call("prctl(2)", prctl::set_no_new_privs())?;
        self.prove()
    }

    /// Proves that the process is this user's, and cannot be root's again.
    fn prove(&self) -> Result<(), Error> {
        let left = |what: &str| Err(Error::Left(what.to_owned()));
        let users = call("getresuid(2)", getresuid())?;
        if [users.real, users.effective, users.saved] != [self.uid; 3] {
            return left("a user id is another one");
        }
        let groups = call("getresgid(2)", getresgid())?;
        if [groups.real, groups.effective, groups.saved] != [self.gid; 3] {
            return left("a group id is another one");
        }
        if set(&call("getgroups(2)", getgroups())?) != set(&self.groups) {
            return left("the supplementary groups are others");
        }
        if self.groups.contains(&Gid::from_raw(0)) {
            return left("root's group is among the supplementary groups");
        }
        let root = Uid::from_raw(0);
        if setresuid(root, root, root).is_ok() || setuid(root).is_ok() || unistd::seteuid(root).is_ok() {
            return left("it can be root again");
        }
        let roots = Gid::from_raw(0);
        if setresgid(roots, roots, roots).is_ok() || setgid(roots).is_ok() || unistd::setegid(roots).is_ok() {
            return left("it can have root's group again");
        }
        for thread in call("opendir(3)", fs::read_dir("/proc/self/task"))? {
            let status = call("readdir(3)", thread)?.path().join("status");
            match fs::read_to_string(status) {
                Ok(status) => self.prove_thread(&status)?,
                // The thread has ended meanwhile.
                Err(error) if error.raw_os_error().is_some_and(|code| code == Errno::ESRCH as i32) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return call("open(2)", Err(error)),
            }
        }
        Ok(())
    }

    /// Proves that one thread is this user's, from proc_pid_status(5).
    fn prove_thread(&self, status: &str) -> Result<(), Error> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|values| values.split_whitespace().collect::<Vec<_>>())
        };
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        // Real, effective, saved, and file system id.
        if field("Uid") != Some(vec![&*uid; 4]) || field("Gid") != Some(vec![&*gid; 4]) {
            return Err(Error::Left("a thread has another id".to_owned()));
        }
        for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let none = field(kind).is_some_and(|mask| mask.len() == 1 && mask[0].bytes().all(|digit| digit == b'0'));
            if !none {
                return Err(Error::Left(format!("a thread has capabilities ({kind})")));
            }
        }
        Ok(())
    }
}

fn find_user(name: &str) -> Result<(Uid, Option<User>), Error> {
    if let Some(user) = User::from_name(name).map_err(|error| lookup(name, error))? {
        return Ok((user.uid, Some(user)));
    }
    let uid = Uid::from_raw(number(name).ok_or_else(|| Error::NoSuchUser(name.to_owned()))?);
    Ok((uid, User::from_uid(uid).map_err(|error| lookup(name, error))?))
}

fn find_group(name: &str) -> Result<Gid, Error> {
    match Group::from_name(name).map_err(|error| lookup(name, error))? {
        Some(group) => Ok(group.gid),
        None => number(name).map(Gid::from_raw).ok_or_else(|| Error::NoSuchGroup(name.to_owned())),
    }
}

/// Parses an id. The largest number is refused: -1 tells setresuid(2) to change nothing.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| digits && id != u32::MAX)
}

fn lookup(name: &str, error: Errno) -> Error {
    Error::Lookup { name: name.to_owned(), error: error.into() }
}

fn call<T>(call: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, Error> {
    result.map_err(|error| Error::System { call, error: error.into() })
}

fn set(groups: &[Gid]) -> BTreeSet<u32> {
    groups.iter().map(|group| group.as_raw()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::test_process::{alone, is_root};

    /// On every system.
    const NOBODY: u32 = 65534;

    fn nobody() -> Identity {
        Identity::find(Some("nobody"), None).expect("nobody is always there")
    }

    fn refusal(user: Option<&str>, group: Option<&str>) -> String {
        Identity::find(user, group).expect_err("no such identity").to_string()
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let by_name = nobody();
        assert_eq!(by_name.uid(), NOBODY);
        let by_number = Identity::find(Some("65534"), None).expect("found");
        assert_eq!((by_number.uid(), by_number.gid()), (by_name.uid(), by_name.gid()));
        assert_eq!(by_number.groups, by_name.groups);
        assert!(by_name.groups.contains(&by_name.gid));
    }

    #[test]
    fn a_group_takes_the_place_of_the_users_own() {
        let identity = Identity::find(Some("nobody"), Some("1")).expect("found");
        assert_eq!(identity.gid(), 1);
        assert_eq!(identity.groups, [Gid::from_raw(1)]);
        let name = Group::from_gid(Gid::from_raw(1)).expect("known").expect("on every system").name;
        assert_eq!(Identity::find(Some("nobody"), Some(&name)).expect("found").gid(), 1);
    }

    #[test]
    fn a_number_without_an_entry_needs_a_group() {
        assert_eq!(refusal(Some("4000000000"), None), "user 4000000000 has no group of its own: name one");
        let identity = Identity::find(Some("4000000000"), Some("4000000001")).expect("made up");
        assert_eq!((identity.uid(), identity.gid()), (4_000_000_000, 4_000_000_001));
    }

    #[test]
    fn who_is_not_there_is_not_found() {
        assert_eq!(refusal(Some("no body"), None), "there is no user named 'no body'");
        assert_eq!(refusal(Some(""), None), "there is no user named ''");
        assert_eq!(refusal(Some("+1"), None), "there is no user named '+1'");
        assert_eq!(refusal(Some("nobody\0"), None), "there is no user named 'nobody\0'");
        assert_eq!(refusal(Some("nobody"), Some("no group")), "there is no group named 'no group'");
        // (uid_t) -1 leaves everything as it is.
        assert_eq!(refusal(Some("4294967295"), Some("1")), "there is no user named '4294967295'");
        assert_eq!(refusal(Some("1"), Some("4294967295")), "there is no group named '4294967295'");
    }

    #[test]
    fn root_is_nobody_to_become() {
        assert_eq!(refusal(Some("root"), None), "user 'root': that is root");
        assert_eq!(refusal(Some("0"), Some("nogroup")), "user '0': that is root");
        assert_eq!(refusal(Some("nobody"), Some("root")), "group root: that is root's");
        assert_eq!(refusal(None, Some("daemon")), "a group alone is not enough: name a user, too");
    }

    #[test]
    fn what_root_could_do_is_over_for_ever_and_in_all_threads() {
        const TEST: &str = "daemon::privileges::tests::what_root_could_do_is_over_for_ever_and_in_all_threads";
        if !is_root(TEST) {
            return;
        }
        alone(TEST, || {
            let directory = tempfile::tempdir().expect("a directory");
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
            let secret = directory.path().join("secret");
            fs::write(&secret, "root's").expect("written");
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("set");

            let powerless = move || {
                assert_eq!(fs::read(&secret).expect_err("no more").kind(), io::ErrorKind::PermissionDenied);
                let root = Uid::from_raw(0);
                assert_eq!(setresuid(root, root, root), Err(Errno::EPERM));
                assert_eq!(setuid(root), Err(Errno::EPERM));
                assert_eq!(setgroups(&[]), Err(Errno::EPERM));
                let status = fs::read_to_string("/proc/thread-self/status").expect("readable");
                assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
            };
            let (dropped, wait) = mpsc::channel();
            let earlier = thread::spawn({
                let powerless = powerless.clone();
                move || {
                    wait.recv().expect("told");
                    powerless();
                }
            });
            // It outlives a change of user by itself.
            let mut sets = rustix::thread::capabilities(None).expect("known");
            sets.inheritable = CapabilitySet::CHOWN;
            set_capabilities(None, sets).expect("set");
            nobody().assume().expect("assumed");
            dropped.send(()).expect("told");
            powerless();
            earlier.join().expect("the same in a thread that was there before");
            let later = thread::spawn(move || {
                powerless();
                assert_eq!(prctl::get_no_new_privs(), Ok(true));
            });
            later.join().expect("the same in a thread that comes after");
            assert_eq!(nobody().assume().expect_err("once").to_string(), "only root can become another user");
        });
    }

    #[test]
    fn groups_are_those_of_the_identity_and_no_others() {
        const TEST: &str = "daemon::privileges::tests::groups_are_those_of_the_identity_and_no_others";
        if !is_root(TEST) {
            return;
        }
        alone(TEST, || {
            setgroups(&[Gid::from_raw(0), Gid::from_raw(4)]).expect("root's groups");
            let identity = Identity::find(Some("nobody"), Some("1")).expect("found");
            identity.assume().expect("assumed");
            assert_eq!(getgroups().expect("groups"), [Gid::from_raw(1)]);
            assert_eq!(nix::unistd::getgid().as_raw(), 1);
        });
    }

    #[test]
    fn a_way_back_is_found_in_the_proof() {
        const TEST: &str = "daemon::privileges::tests::a_way_back_is_found_in_the_proof";
        if !is_root(TEST) {
            return;
        }
        alone(TEST, || {
            let identity = nobody();
            let why = || identity.prove().expect_err("root is near").to_string();
            assert_eq!(why(), "privileges are not dropped: a user id is another one");
            let (uid, gid) = (identity.uid, identity.gid);
            setgroups(&[Gid::from_raw(4)]).expect("another group");
            setresgid(gid, gid, Gid::from_raw(0)).expect("root's, in reserve");
            setresuid(uid, uid, Uid::from_raw(0)).expect("root, in reserve");
            assert_eq!(why(), "privileges are not dropped: a user id is another one");
            setresuid(uid, uid, uid).expect("changed");
            assert_eq!(why(), "privileges are not dropped: a group id is another one");
            setresgid(gid, gid, gid).expect("changed");
            assert_eq!(why(), "privileges are not dropped: the supplementary groups are others");
        });
    }

    #[test]
    fn roots_group_among_others_is_found_in_the_proof() {
        const TEST: &str = "daemon::privileges::tests::roots_group_among_others_is_found_in_the_proof";
        if !is_root(TEST) {
            return;
        }
        alone(TEST, || {
            let Identity { uid, gid, .. } = nobody();
            let why = Identity { uid, gid, groups: vec![gid, Gid::from_raw(0)] }.assume().expect_err("root's");
            let expected = "privileges are not dropped: root's group is among the supplementary groups";
            assert_eq!(why.to_string(), expected);
        });
    }

    #[test]
    fn capabilities_that_were_kept_are_found_in_the_proof() {
        const TEST: &str = "daemon::privileges::tests::capabilities_that_were_kept_are_found_in_the_proof";
        if !is_root(TEST) {
            return;
        }
        alone(TEST, || {
            let identity = nobody();
            setgroups(&identity.groups).expect("changed");
            setresgid(identity.gid, identity.gid, identity.gid).expect("changed");
            prctl::set_keepcaps(true).expect("kept");
            setresuid(identity.uid, identity.uid, identity.uid).expect("changed");
            let why = identity.prove().expect_err("they are kept").to_string();
            assert_eq!(why, "privileges are not dropped: a thread has capabilities (CapPrm)");
        });
    }

    #[test]
    fn a_thread_with_more_than_the_others_is_found_in_the_proof() {
        let status = |uid: &str, cap: &str| {
            format!("Uid:\t{uid}\nGid:\t1\t1\t1\t1\nCapInh:\t{cap}\nCapPrm:\t00\nCapEff:\t00\nCapAmb:\t00\n")
        };
        let one = Identity { uid: Uid::from_raw(1), gid: Gid::from_raw(1), groups: Vec::new() };
        one.prove_thread(&status("1\t1\t1\t1", "00")).expect("nothing left");
        assert!(one.prove_thread(&status("1\t1\t1\t0", "00")).is_err());
        assert!(one.prove_thread(&status("1\t1\t1\t1", "80")).is_err());
        assert!(one.prove_thread("Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\n").is_err());
    }
}

//! Bytes that wait for their turn on a stream: in memory up to a limit for all poems together, and then in a file.
//!
//! The file has no name, and is not there before it is needed. It is divided into regions, which belong to one poem
//! each and are given back when they are read: holes in the file, and the next to be used.

use std::collections::VecDeque;
use std::env;
use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};

use super::Failure;

/// The most bytes in memory, of all poems together.
pub(crate) const IN_MEMORY: usize = 64 << 20;

/// The size of a region. Where it is costs eight bytes, so that very long poems hardly need memory.
const REGION: usize = 256 << 10;

/// The memory and the file of all poems.
#[derive(Debug)]
pub(super) struct Store {
    limit: usize,
    in_memory: usize,
    in_file: u64,
    /// The most bytes that there ever were, in both.
    most: u64,
    file: Option<File>,
    /// Regions of the file that belong to nobody.
    free: Vec<u64>,
    /// Regions of the file in all.
    regions: u64,
}

/// The bytes of one poem. It is given back to its store with [`Store::next`] to the end, or with [`Store::release`].
#[derive(Debug, Default)]
pub(super) struct Held {
    memory: Vec<u8>,
    /// The regions with what came first, if the poem is in the file; then nothing is in memory.
    regions: VecDeque<u64>,
    /// Bytes in the file.
    in_file: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { limit: IN_MEMORY, in_memory: 0, in_file: 0, most: 0, file: None, free: Vec::new(), regions: 0 }
    }
}

impl Store {
    /// Adds the next bytes of a poem.
    ///
    /// # Errors
    /// They fit neither into memory nor on the disk. What the poem has is only good to be released.
    pub(super) fn add(&mut self, held: &mut Held, bytes: &[u8]) -> Result<(), Failure> {
        let result = self.keep(held, bytes);
        self.most = self.most.max(self.in_memory as u64 + self.in_file);
        result
    }

    /// The most bytes that were held at one time.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    fn keep(&mut self, held: &mut Held, bytes: &[u8]) -> Result<(), Failure> {
        if held.regions.is_empty() {
            let fits = bytes.len() <= self.limit.saturating_sub(self.in_memory);
            if fits && held.memory.try_reserve(bytes.len()).is_ok() {
                held.memory.extend_from_slice(bytes);
                self.in_memory += bytes.len();
                return Ok(());
            }
            let moved = mem::take(&mut held.memory);
            self.in_memory -= moved.len();
            self.append(held, &moved).map_err(temporary)?;
        }
        self.append(held, bytes).map_err(temporary)
    }

    fn append(&mut self, held: &mut Held, mut bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        while !bytes.is_empty() {
            let (index, used) = (held.in_file / REGION as u64, held.in_file % REGION as u64);
            let region = match usize::try_from(index).ok().and_then(|index| held.regions.get(index)) {
                Some(&region) => region,
                None => {
                    held.regions.try_reserve(1).map_err(io::Error::from)?;
                    let region = self.free.pop().unwrap_or_else(|| {
                        self.regions += 1;
                        self.regions - 1
                    });
                    held.regions.push_back(region);
                    region
                }
            };
            let room = usize::try_from(REGION as u64 - used).unwrap_or(REGION);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            file.write_all_at(now, region * REGION as u64 + used)?;
            held.in_file += now.len() as u64;
            self.in_file += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Takes the first bytes of what is left of a poem; `None`: nothing is left.
    ///
    /// # Errors
    /// They cannot be read from the disk. The rest is only good to be released.
    pub(super) fn next(&mut self, held: &mut Held) -> Result<Option<Vec<u8>>, Failure> {
        if !held.memory.is_empty() {
            self.in_memory -= held.memory.len();
            return Ok(Some(mem::take(&mut held.memory)));
        }
        let Some((&region, file)) = held.regions.front().zip(self.file.as_ref()).filter(|_| held.in_file > 0) else {
            self.release(mem::take(held));
            return Ok(None);
        };
        let length = usize::try_from(held.in_file).unwrap_or(REGION).min(REGION);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, region * REGION as u64).map_err(temporary)?;
        held.in_file -= length as u64;
        self.in_file -= length as u64;
        held.regions.pop_front();
        self.give_back(region);
        Ok(Some(bytes))
    }

    /// Drops what is left of a poem.
    pub(super) fn release(&mut self, held: Held) {
        self.in_memory -= held.memory.len();
        self.in_file -= held.in_file;
        for region in held.regions {
            self.give_back(region);
        }
    }

    fn give_back(&mut self, region: u64) {
        self.free.push(region);
        let Some(file) = &self.file else { return };
        if self.free.len() as u64 == self.regions {
            // Nobody has anything in it: without a name, its space is free when it is closed.
            self.file = None;
            self.free = Vec::new();
            self.regions = 0;
        } else if let (Ok(start), Ok(length)) = (i64::try_from(region * REGION as u64), i64::try_from(REGION)) {
            // EOPNOTSUPP: the space is free when the file is closed.
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let _ = fallocate(file, hole, start, length);
        }
    }
}

/// The failure of a poem that the disk does not take, or give back.
fn temporary(error: io::Error) -> Failure {
    Failure::Deliver { place: format!("a temporary file in {}", env::temp_dir().display()), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that keeps so many bytes in memory.
    fn store(limit: usize) -> Store {
        Store { limit, ..Store::default() }
    }

    /// The bytes of one of several poems, which are nowhere alike.
    fn poem(number: u8, length: usize) -> Vec<u8> {
        let byte = |at: usize| u8::try_from((at / 251 + at) % 251).unwrap_or(0) ^ number;
        (0..length).map(byte).collect()
    }

    fn taken(store: &mut Store, mut held: Held) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = store.next(&mut held).expect("the disk") {
            assert!(bytes.len() <= REGION || all.is_empty());
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn what_was_added_comes_back_whether_it_fitted_into_memory_or_not() {
        let poems: Vec<Vec<u8>> = [0, 1, 90_000, 700_000, 262_144, 524_288, 524_289]
            .iter()
            .zip(0..)
            .map(|(&length, number)| poem(number, length))
            .collect();
        for limit in [0, 1, 100_000, 1_000_000, usize::MAX] {
            let mut store = store(limit);
            let mut held: Vec<Held> = poems.iter().map(|_| Held::default()).collect();
            // A piece of each in turns, as they come from several servers.
            for from in (0..700_000).step_by(99_991) {
                for (held, poem) in held.iter_mut().zip(&poems) {
                    let piece = &poem[from.min(poem.len())..(from + 99_991).min(poem.len())];
                    store.add(held, piece).expect("room");
                    assert!(store.in_memory <= limit);
                }
            }
            for (held, poem) in held.into_iter().zip(&poems) {
                assert!(taken(&mut store, held) == *poem, "{limit}: {}", poem.len());
            }
            assert_eq!(
                (store.in_memory, store.in_file, store.regions, store.file.is_some()),
                (0, 0, 0, false),
                "{limit}"
            );
            assert_eq!(store.most(), poems.iter().map(|poem| poem.len() as u64).sum::<u64>());
        }
    }

    #[test]
    fn room_that_is_given_back_is_used_again() {
        let mut store = store(10);
        let mut stays = Held::default();
        store.add(&mut stays, &poem(1, 20)).expect("room");
        for round in 0..20 {
            let mut goes = Held::default();
            for _ in 0..3 {
                store.add(&mut goes, &poem(round, REGION)).expect("room");
            }
            store.release(goes);
        }
        assert_eq!((store.regions, store.free.len()), (4, 3));
        let mut small = Held::default();
        store.add(&mut small, b"in memory").expect("room");
        assert_eq!(store.in_memory, 9);
        assert_eq!((taken(&mut store, small), taken(&mut store, stays)), (b"in memory".to_vec(), poem(1, 20)));
    }

    #[test]
    fn a_disk_that_takes_nothing_fails_one_poem_and_lets_the_others_go_on() {
        let mut store = store(10);
        store.file = Some(File::open("/dev/null").expect("a file that cannot be written"));
        let (mut long, mut short) = (Held::default(), Held::default());
        store.add(&mut long, b"nine char").expect("room in memory");
        let failure = store.add(&mut long, b"too long").expect_err("no room");
        assert!(failure.to_string().starts_with("cannot write a temporary file in /"), "{failure}");
        store.add(&mut short, b"in memory").expect("room in memory");
        store.release(long);
        assert_eq!(taken(&mut store, short), b"in memory");
    }
}

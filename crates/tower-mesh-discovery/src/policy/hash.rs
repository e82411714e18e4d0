//! Consistent hashing: which endpoint a key belongs to, such that one endpoint more or less moves only about its own share of the keys.
//!
//! Ring and table are built as Envoy builds them, so that both send a key to the same host.

use xxhash_rust::xxh64::xxh64;

/// The hash that [`ring`], [`maglev`] and [`subset`] go by, for keys of any bytes: XXH64 with seed 0.
///
/// ```
/// assert_eq!(tower_mesh_discovery::hash(b""), 0xEF46_DB37_51D8_E999);
/// ```
pub fn hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// One hash of several, in order; those that are missing are left out, and if all are, so is the result (gRFC A42).
pub fn combine(parts: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    parts.into_iter().flatten().fold(None, |so_far, next| Some(so_far.unwrap_or(0_u64).rotate_left(1) ^ next))
}

/// A ring of at least `min` entries, if `max` allows, in order of their hashes: each a hash and the index of its host. A host has entries in proportion of
/// its weight.
pub fn ring(hosts: &[(&str, u32)], min: usize, max: usize) -> Vec<(u64, u32)> {
    let total: f64 = hosts.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let Some(least) = hosts.iter().map(|&(_, weight)| weight).min() else { return Vec::new() };
    let least = f64::from(least) / total;
    let scale = ((least * min as f64).ceil() / least).min(max as f64);
    let mut ring: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
    let mut target = 0.0;
    for (index, &(key, weight)) in (0..).zip(hosts) {
        target += scale * (f64::from(weight) / total);
        let mut entry = format!("{key}_");
        let prefix = entry.len();
        for i in 0.. {
            if ring.len() as f64 >= target {
                break;
            }
            entry.truncate(prefix);
            entry.push_str(&i.to_string());
            ring.push((hash(entry.as_bytes()), index));
        }
    }
    ring.sort_unstable();
    ring
}

/// The least size to give [`ring`] for about `least` entries, such that each host keeps as many while others come and go: the lightest has a power of two of them. Were
/// the whole ring to keep its size, twice as many keys would move as have to.
pub fn steady_size(hosts: &[(&str, u32)], least: usize) -> usize {
    let total: f64 = hosts.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let Some(lightest) = hosts.iter().map(|&(_, weight)| weight).min() else { return 0 };
    let part = f64::from(lightest) / total;
    let entries = ((part * least as f64).ceil() as usize).next_power_of_two();
    ((entries as f64 - 0.5) / part).ceil() as usize
}

/// A ring in which a key finds its place without a search over all of it: by its first bits it is known between which entries that lies. Hashes are spread evenly, so it is among one or
/// two of them, and were they not, searching among those takes no longer than searching among all.
#[derive(Debug)]
pub struct Ring {
    entries: Vec<(u64, u32)>,
    /// For each beginning of a hash, where the entries with it begin; and where the last ones end.
    begins: Vec<u32>,
    shift: u32,
}

impl Ring {
    /// Over the entries of [`ring`], in order of their hashes.
    pub fn new(entries: Vec<(u64, u32)>) -> Self {
        // Between one and two entries for each beginning.
        let bits = entries.len().max(4).next_power_of_two().ilog2() - 1;
        let shift = u64::BITS - bits;
        let mut begins = Vec::with_capacity((1 << bits) + 1);
        let mut at = 0;
        for beginning in 0..1_u64 << bits {
            while entries.get(at).is_some_and(|&(hash, _)| hash >> shift < beginning) {
                at += 1;
            }
            begins.push(at as u32);
        }
        begins.push(entries.len() as u32);
        Self { entries, begins, shift }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The place of the first entry at or after `key`, around the end. The ring must not be empty.
    pub fn place(&self, key: u64) -> usize {
        let beginning = (key >> self.shift) as usize;
        let (from, to) = (self.begins[beginning] as usize, self.begins[beginning + 1] as usize);
        let at = from + self.entries[from..to].partition_point(|&(hash, _)| hash < key);
        if at == self.entries.len() { 0 } else { at }
    }

    /// The index of the host at a place.
    pub fn host(&self, place: usize) -> u32 {
        self.entries[place].1
    }
}

/// The size of a Maglev table, a prime: with up to some hundred hosts each has its share to within a percent.
pub const MAGLEV_SIZE: usize = 65_537;

/// A table of `size` places, a prime, each with the index of its host. Empty without hosts.
pub fn maglev(hosts: &[(&str, u32)], size: usize) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    struct Turn {
        host: u32,
        at: u64,
        skip: u64,
        weight: u64,
        due: u64,
    }
    let Some(heaviest) = hosts.iter().map(|&(_, weight)| u64::from(weight)).max() else { return Vec::new() };
    let modulus = size as u64;
    let mut order: Vec<u32> = (0..hosts.len() as u32).collect();
    order.sort_by_key(|&host| hosts[host as usize].0);
    let mut turns: Vec<_> = order
        .into_iter()
        .map(|host| {
            let (key, weight) = hosts[host as usize];
            Turn {
                host,
                at: hash(key.as_bytes()) % modulus,
                skip: xxh64(key.as_bytes(), 1) % (modulus - 1) + 1,
                weight: weight.into(),
                due: 0,
            }
        })
        .collect();
    let mut table = vec![FREE; size];
    let mut left = size;
    for round in 1_u64.. {
        for turn in &mut turns {
            if round * turn.weight < turn.due {
                continue;
            }
            turn.due += heaviest;
            while table[turn.at as usize] != FREE {
                turn.at = (turn.at + turn.skip) % modulus;
            }
            table[turn.at as usize] = turn.host;
            turn.at = (turn.at + turn.skip) % modulus;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
    table
}

/// Which `size` of the hosts with these keys a client with this `seed` uses (gRFC A68): those that a hash of both puts first, so that another host more or less
/// changes one place at most. Indexes, ascending.
pub fn subset(keys: &[&str], size: usize, seed: u64) -> Vec<u32> {
    let mut ranked: Vec<(u64, u32)> =
        (0..).zip(keys).map(|(index, key)| (xxh64(key.as_bytes(), seed), index)).collect();
    if size < ranked.len() && size > 0 {
        ranked.select_nth_unstable(size - 1);
        ranked.truncate(size);
    }
    let mut kept: Vec<u32> = ranked.into_iter().map(|(_, index)| index).collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_the_place_that_a_search_over_all_finds() {
        let crowded: Vec<_> = (0..1000).map(|i| (u64::MAX - 2000 + i, i as u32)).collect();
        let (few, many) = (names(1), names(200));
        let even = [&few, &many].map(|names| ring(&hosts(names), 16 * names.len(), 1 << 23));
        for entries in even.into_iter().chain([crowded, vec![(5, 0)], vec![(0, 0), (u64::MAX, 1)]]) {
            let ring = Ring::new(entries.clone());
            let near =
                entries.iter().flat_map(|&(hash, _)| [hash.wrapping_sub(1), hash, hash.wrapping_add(1)]);
            let spread = (0..10_000_u64).map(|i| hash(&i.to_le_bytes()));
            for key in near.chain(spread).chain([0, 1, u64::MAX]) {
                let at = entries.partition_point(|&(hash, _)| hash < key) % entries.len();
                assert_eq!(ring.place(key), at, "{key} among {}", entries.len());
            }
        }
        assert!(Ring::new(Vec::new()).is_empty());
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("10.0.0.{i}:80")).collect()
    }

    fn hosts(names: &[String]) -> Vec<(&str, u32)> {
        names.iter().map(|name| (name.as_str(), 1)).collect()
    }

    fn owners(names: &[String], maglev_too: bool) -> Vec<String> {
        let hosts = hosts(names);
        let ring = Ring::new(ring(&hosts, steady_size(&hosts, 4096), 1 << 23));
        let table = maglev(&hosts, MAGLEV_SIZE);
        (0..10_000_u64)
            .map(|i| {
                let key = hash(&i.to_le_bytes());
                let host = match maglev_too {
                    true => table[(key % MAGLEV_SIZE as u64) as usize],
                    false => ring.host(ring.place(key)),
                };
                names[host as usize].clone()
            })
            .collect()
    }

    #[test]
    fn one_host_less_moves_its_own_keys_and_hardly_any_other() {
        for maglev in [false, true] {
            let before_names = names(20);
            let gone = &before_names[7];
            let after_names: Vec<_> = before_names.iter().filter(|&name| name != gone).cloned().collect();
            let (before, after) = (owners(&before_names, maglev), owners(&after_names, maglev));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            let own = before.iter().filter(|&host| host == gone).count();
            assert!((300..=750).contains(&own), "its share is about a twentieth: {own}");
            assert!(moved - own < 300, "{maglev}: {moved} of 10 000 moved, {own} had to");
        }
    }

    #[test]
    fn a_subset_changes_in_one_place_when_a_host_comes_or_goes() {
        let names = names(50);
        let keys: Vec<_> = names.iter().map(String::as_str).collect();
        let kept = |keys: &[&str], seed| -> Vec<String> {
            subset(keys, 10, seed).into_iter().map(|i| keys[i as usize].to_owned()).collect()
        };
        let mut shares = std::collections::HashMap::<String, u32>::new();
        for seed in 0..2000 {
            let before = kept(&keys, seed);
            before.iter().for_each(|key| *shares.entry(key.clone()).or_default() += 1);
            let gone = before[3].clone();
            let rest: Vec<_> = keys.iter().copied().filter(|&key| key != gone).collect();
            let after = kept(&rest, seed);
            assert_eq!(before.iter().filter(|key| !after.contains(key)).count(), 1);
        }
        assert!(shares.len() == 50 && shares.values().all(|n| (310..490).contains(n)), "{shares:?}");
    }
}

//! How the calls of one balancer are spread over its endpoints: levels, localities, slow start, and a picker for each group. Made with each set, off the call path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tower_mesh_core::ewma::Decay;
use tower_mesh_core::{CallContext, EndpointHandle, Reason, Tick, Tried};

use crate::algorithm::{self, Choice};
use crate::candidates::{self, Avoid, Candidates, Filter, Picker};
use crate::config::DiscoveryConfig;
use crate::members::Member;
use crate::policy::hash;
use crate::policy::levels::{self, Level, MAX_LEVELS, MAX_ZONES, WHOLE, Zones};
use crate::policy::pick;
use crate::policy::warm::SlowStart;

/// What a balancer goes by, whatever its endpoints are.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) choice: Choice,
    pub(crate) locality: Option<Arc<str>>,
    /// Which subset of a large fleet this client uses.
    pub(crate) seed: u64,
}

/// How calls are spread over the members of one set.
pub(crate) struct Plan {
    /// Nothing but the default algorithm over all members: the short way.
    simple: bool,
    /// Whether a call goes by its hash key, also to its level and locality.
    by_key: bool,
    /// By level, and in a level the caller's own locality first.
    groups: Vec<Group>,
    warm: Option<Warm>,
    overprovisioning: u32,
    panic_threshold: u32,
    /// One more than the [`EndpointHandle::changes`] that the shares were computed after; 0: never.
    seen: AtomicU64,
    /// When a circuit's wait ends, which changes a share without anybody's saying so.
    stale_at: AtomicU64,
    swept_at: AtomicU64,
}

/// Endpoints of one level and locality.
struct Group {
    level: usize,
    /// Whether it is the caller's own locality, beside others in its level.
    own_zone: bool,
    /// Places among the members; all of them if none.
    indices: Option<Box<[u32]>>,
    picker: Option<Box<dyn Picker>>,
    share: Packed,
}

/// What a group gets: out of a million for its healthy endpoints, for its degraded ones, and whether it is in panic, in one word.
#[derive(Default)]
struct Packed(AtomicU64);

const PANIC: u64 = 1 << 63;

impl Packed {
    fn set(&self, healthy: u64, degraded: u64, panic: bool) {
        let panic = if panic { PANIC } else { 0 };
        self.0.store(healthy | degraded << 24 | panic, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64, bool) {
        let word = self.0.load(Ordering::Relaxed);
        (word & 0xFF_FFFF, word >> 24 & 0xFF_FFFF, word & PANIC != 0)
    }
}

/// A level with fewer usable endpoints is not divided by locality (Envoy).
const MIN_ZONE_HOSTS: u32 = 6;

/// Large sets are added up again at most so often.
const SWEEP_EVERY_NS: u64 = 10_000_000;

impl Plan {
    pub(crate) fn empty() -> Self {
        Self {
            simple: true,
            by_key: false,
            groups: Vec::new(),
            warm: None,
            overprovisioning: 100,
            panic_threshold: 0,
            seen: AtomicU64::new(0),
            stale_at: AtomicU64::new(u64::MAX),
            swept_at: AtomicU64::new(0),
        }
    }

    /// The plan for `members`, with what `old` knows of those that it had too.
    pub(crate) fn new(
        config: &DiscoveryConfig,
        settings: &Settings,
        members: &[Member],
        old: (&Self, &[Member]),
        now: Tick,
    ) -> Self {
        let by_key = settings.choice.is_by_key();
        // A key that moved as a share grows would not be consistent.
        let slow_start = config.slow_start().filter(|_| !by_key);
        let warm = slow_start.map(|slow| Warm::new(slow, members, old, now));
        let groups = group(members, settings.locality.as_deref());
        let whole = groups.len() == 1;
        let groups: Vec<_> = groups
            .into_iter()
            .map(|(level, own_zone, indices)| {
                let handles: Vec<EndpointHandle> =
                    indices.iter().map(|&i| members[i as usize].handle.clone()).collect();
                Group {
                    level,
                    own_zone,
                    picker: settings.choice.picker(config, &handles),
                    indices: (!whole).then(|| indices.into_boxed_slice()),
                    share: Packed::default(),
                }
            })
            .collect();
        Self {
            simple: warm.is_none() && groups.len() <= 1 && groups.iter().all(|group| group.picker.is_none()),
            by_key,
            groups,
            warm,
            overprovisioning: config.overprovisioning(),
            panic_threshold: config.panic_threshold(),
            ..Self::empty()
        }
    }

    /// Whether a call usually draws two members with one draw, and takes one of them.
    #[inline]
    pub(crate) fn is_simple(&self) -> bool {
        self.simple
    }

    /// The place of the endpoint for a call, by these rules, the next one only if the one before leaves nobody:
    ///
    /// 1. of the level and locality that the shares give: available and not tried by this call; in panic, held back only by probes or peers will do;
    /// 2. of any, in order: available, and not tried by this call;
    /// 3. available, though tried;
    /// 4. not available, but only because probes or peers say so: better a doubtful endpoint than none. An open circuit is not overruled,
    ///    and neither is draining.
    #[inline]
    pub(crate) fn pick(
        &self,
        members: &[Member],
        now: Tick,
        decay: Decay,
        tried: Tried,
        avoid: &Avoid,
    ) -> Option<usize> {
        if self.simple {
            // Healthy, and neither tried nor refused. A trial call that is wanted counts as healthy here too, or it would seldom be made.
            let free = |member: &Member| {
                (member.handle.is_plain() || candidates::wants_trial(&member.handle, now))
                    && (tried.is_empty() || !tried.contains(member.key))
                    && !avoid.contains(member.key)
            };
            if members.len() > 1 {
                let (a, b) = pick::draw_pair(fastrand::u64(..), members.len());
                let (one, other) = (&members[a], &members[b]);
                if free(one) && free(other) {
                    let better = other.handle.load(now, decay) < one.handle.load(now, decay);
                    return Some(if better { b } else { a });
                }
            } else if members.len() == 1 && free(&members[0]) {
                return Some(0);
            }
        }
        self.pick_by_rules(members, now, decay, tried, avoid)
    }

    #[inline(never)]
    fn pick_by_rules(
        &self,
        members: &[Member],
        now: Tick,
        decay: Decay,
        tried: Tried,
        avoid: &Avoid,
    ) -> Option<usize> {
        self.refresh(members, now);
        let ask = |group: &Group, filter, again| {
            let among = Candidates {
                members,
                indices: group.indices.as_deref(),
                warm: self.warm.as_ref(),
                now,
                decay,
                tried,
                avoid,
                filter,
                again,
            };
            let picked = match &group.picker {
                None => algorithm::p2c_ewma(&among),
                Some(picker) => {
                    picker.pick(&among).filter(|&index| index < among.len() && among.may_use(index))
                }
            };
            picked.map(|index| among.place(index))
        };
        self.drawn().and_then(|(group, filter)| ask(group, filter, false)).or_else(|| {
            [(Filter::Available, false), (Filter::Available, true), (Filter::Doubtful, true)]
                .into_iter()
                .find_map(|(filter, again)| self.groups.iter().find_map(|group| ask(group, filter, again)))
        })
    }

    /// The group that chance and the shares give, and which of its endpoints are meant.
    fn drawn(&self) -> Option<(&Group, Filter)> {
        let filter = |panic| if panic { Filter::Doubtful } else { Filter::Healthy };
        let total: u64 = self
            .groups
            .iter()
            .map(|group| {
                let (healthy, degraded, _) = group.share.get();
                healthy + degraded
            })
            .sum();
        let key = self.by_key.then(|| CallContext::with(|call| call.hash_key()).flatten()).flatten();
        let mut left = match (total, key) {
            (0, _) => 0,
            (_, None) => fastrand::u64(..total),
            // Other bits than those by which the endpoint is found.
            (_, Some(key)) => hash::hash(&key.to_le_bytes()) % total,
        };
        for group in &self.groups {
            let (healthy, degraded, panic) = group.share.get();
            if left < healthy {
                return Some((group, filter(panic)));
            }
            left -= healthy;
            if left < degraded {
                return Some((group, Filter::Degraded));
            }
            left -= degraded;
        }
        None
    }

    /// Adds up the health of the groups again, if any endpoint's has changed.
    fn refresh(&self, members: &[Member], now: Tick) {
        // Before looking at any: a change in between is then seen at the next call.
        let changes = EndpointHandle::changes() + 1;
        let (seen, now_ns) = (self.seen.load(Ordering::Acquire), now.as_nanos());
        if seen == changes && now_ns < self.stale_at.load(Ordering::Relaxed) {
            return;
        }
        if seen != 0
            && members.len() > 1000
            && now_ns < self.swept_at.load(Ordering::Relaxed).saturating_add(SWEEP_EVERY_NS)
        {
            return;
        }
        self.swept_at.store(now_ns, Ordering::Relaxed);
        self.sweep(members, now);
        self.seen.store(changes, Ordering::Release);
    }

    #[cold]
    fn sweep(&self, members: &[Member], now: Tick) {
        let mut counts = [[Level::default(); MAX_ZONES]; MAX_LEVELS];
        let mut sums = [Level::default(); MAX_LEVELS];
        let mut stale_at = u64::MAX;
        let (mut level, mut zone) = (0, 0);
        for group in &self.groups {
            (level, zone) = if group.level == level { (level, zone) } else { (group.level, 0) };
            let count = &mut counts[level][zone];
            zone += 1;
            let mut add = |place: usize| {
                let handle = &members[place].handle;
                let available = handle.availability();
                if let Some(warm) = &self.warm {
                    stale_at = stale_at.min(warm.note(place, handle, available.is_blocked(), now));
                }
                count.hosts += 1;
                if !handle.is_pickable(now) {
                    if let Some(at) = handle.recheck_at().filter(|_| available.contains(Reason::CircuitOpen))
                    {
                        stale_at = stale_at.min(at.as_nanos().max(now.as_nanos() + 1));
                    }
                } else if available.contains(Reason::Degraded) {
                    count.degraded += 1;
                } else {
                    count.healthy += 1;
                }
            };
            match &group.indices {
                None => (0..members.len()).for_each(&mut add),
                Some(indices) => indices.iter().for_each(|&place| add(place as usize)),
            }
            sums[level].hosts += count.hosts;
            sums[level].healthy += count.healthy;
            sums[level].degraded += count.degraded;
        }
        self.stale_at.store(stale_at, Ordering::Relaxed);
        let shares = levels::spread(&sums[..=level], self.overprovisioning, self.panic_threshold);
        let mut rest = &self.groups[..];
        while let Some(first) = rest.first() {
            let level = first.level;
            let (groups, after) = rest.split_at(rest.iter().take_while(|group| group.level == level).count());
            share_out(groups, &counts[level][..groups.len()], sums[level], shares[level]);
            rest = after;
        }
    }
}

/// Gives the share of one level to its groups.
fn share_out(groups: &[Group], counts: &[Level], sum: Level, share: levels::Share) {
    let mut healthy = [0_u32; MAX_ZONES];
    let parts = |of: fn(&Level) -> u32, parts: &mut [u32; MAX_ZONES]| {
        counts.iter().zip(parts).for_each(|(count, part)| *part = of(count));
    };
    let usable: fn(&Level) -> u32 = if share.panic || sum.healthy + sum.degraded == 0 {
        |level| level.hosts
    } else {
        |level| level.healthy
    };
    parts(usable, &mut healthy);
    let usable = &mut healthy[..groups.len()];
    if groups[0].own_zone && !share.panic && sum.healthy >= MIN_ZONE_HOSTS {
        // Where the callers are is not known: as many in each locality.
        let callers = [1; MAX_ZONES];
        match levels::zones(usable, &callers[..groups.len()]) {
            None => {}
            Some(Zones::Direct) => usable[1..].fill(0),
            Some(Zones::Residual { local, left_over }) => {
                let left_over = &left_over[..usable.len()];
                let all: u64 = left_over.iter().map(|&part| u64::from(part)).sum();
                usable[0] = local;
                for (part, left) in usable.iter_mut().zip(left_over).skip(1) {
                    let own = u64::from(WHOLE - local) * u64::from(*left);
                    *part = own.checked_div(all).unwrap_or(0) as u32;
                }
            }
        }
    }
    let whole: u64 = usable.iter().map(|&part| u64::from(part)).sum();
    let amount = |percent: u32, part: u32, whole: u64| {
        (u64::from(percent) * u64::from(WHOLE) * u64::from(part)).checked_div(whole).unwrap_or(0)
    };
    for ((group, count), &part) in groups.iter().zip(counts).zip(&*usable) {
        let degraded = amount(share.degraded, count.degraded, sum.degraded.into());
        group.share.set(amount(share.healthy, part, whole), degraded, share.panic);
    }
}

/// The groups of `members`: level, whether it is the caller's own locality, and places.
fn group(members: &[Member], own: Option<&str>) -> Vec<(usize, bool, Vec<u32>)> {
    type Zone = Option<Arc<str>>;
    let mut levels: BTreeMap<u32, BTreeMap<(bool, Zone), Vec<u32>>> = BTreeMap::new();
    for (place, member) in (0..).zip(members) {
        let endpoint = member.handle.endpoint();
        let zone = own.map(|own| match endpoint.locality() {
            Some(zone) if zone == own => (false, Some(zone.into())),
            zone => (true, zone.map(Arc::from)),
        });
        let level = levels.entry(endpoint.priority()).or_default();
        level.entry(zone.unwrap_or((true, None))).or_default().push(place);
    }
    let mut merged: Vec<BTreeMap<(bool, Zone), Vec<u32>>> = Vec::new();
    for zones in levels.into_values() {
        if merged.len() < MAX_LEVELS {
            merged.push(zones);
        } else if let Some(last) = merged.last_mut() {
            zones.into_iter().for_each(|(zone, places)| last.entry(zone).or_default().extend(places));
        }
    }
    let mut groups = Vec::new();
    for (level, zones) in merged.into_iter().enumerate() {
        let has_own = zones.keys().next().is_some_and(|(other, _)| !other) && zones.len() > 1;
        let first = groups.len();
        for ((other, _), places) in zones {
            if groups.len() == first || (has_own && groups.len() < first + MAX_ZONES) {
                groups.push((level, has_own && !other, places));
            } else if let Some((.., last)) = groups.last_mut() {
                last.extend(places);
            }
        }
    }
    groups
}

/// Which of `members` this client uses: of each level so many.
pub(crate) fn subset(members: &[Member], size: usize, seed: u64) -> Vec<Member> {
    let mut levels: BTreeMap<u32, Vec<&Member>> = BTreeMap::new();
    for member in members {
        levels.entry(member.handle.endpoint().priority()).or_default().push(member);
    }
    let kept: std::collections::HashSet<u32> = levels
        .into_values()
        .flat_map(|level| {
            let keys: Vec<_> = level.iter().map(|member| member.handle.id().as_str()).collect();
            let kept = hash::subset(&keys, size, seed);
            kept.into_iter().map(move |i| level[i as usize].key).collect::<Vec<_>>()
        })
        .collect();
    members.iter().filter(|member| kept.contains(&member.key)).cloned().collect()
}

/// Which members are warming, and since when.
pub(crate) struct Warm {
    slow: SlowStart,
    members: Box<[Warming]>,
}

struct Warming {
    /// 0: it is not.
    since: AtomicU64,
    /// Whether it was unavailable when it was last looked at.
    blocked: AtomicBool,
}

impl Warm {
    fn new(slow: SlowStart, members: &[Member], (old, old_members): (&Plan, &[Member]), now: Tick) -> Self {
        let known: HashMap<u32, &Warming> = old.warm.as_ref().map_or_else(HashMap::new, |warm| {
            old_members.iter().map(|member| member.key).zip(&warm.members).collect()
        });
        let members = members.iter().map(|member| match known.get(&member.key) {
            Some(warming) => Warming {
                since: AtomicU64::new(warming.since.load(Ordering::Relaxed)),
                blocked: AtomicBool::new(warming.blocked.load(Ordering::Relaxed)),
            },
            None => {
                member.handle.set(Reason::Warming);
                Warming {
                    since: AtomicU64::new(now.as_nanos().max(1)),
                    blocked: AtomicBool::new(member.handle.availability().is_blocked()),
                }
            }
        });
        Self { slow, members: members.collect() }
    }

    /// What an endpoint's weight is multiplied by.
    #[inline]
    pub(crate) fn factor(&self, place: usize, handle: &EndpointHandle, now: Tick) -> f64 {
        let warming = &self.members[place];
        let since = warming.since.load(Ordering::Relaxed);
        if since == 0 {
            return 1.0;
        }
        let elapsed = std::time::Duration::from_nanos(now.as_nanos().saturating_sub(since));
        self.slow.factor(elapsed).unwrap_or_else(|| {
            warming.since.store(0, Ordering::Relaxed);
            handle.clear(Reason::Warming);
            1.0
        })
    }

    /// One that was unavailable and no longer is begins anew. When its warming ends, as [`Tick`]s count.
    fn note(&self, place: usize, handle: &EndpointHandle, blocked: bool, now: Tick) -> u64 {
        let warming = &self.members[place];
        if warming.blocked.swap(blocked, Ordering::Relaxed) && !blocked {
            warming.since.store(now.as_nanos().max(1), Ordering::Relaxed);
            handle.set(Reason::Warming);
        }
        self.factor(place, handle, now);
        match warming.since.load(Ordering::Relaxed) {
            0 => u64::MAX,
            since => since.saturating_add(self.slow.window().as_nanos() as u64),
        }
    }
}

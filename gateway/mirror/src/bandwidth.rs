//! How many bytes a second the copier may send to a mirror, by the time of day.
//!
//! Invariant: which limit holds is a function of the policy and of what the clocks on the walls of
//! the named zones show, and of nothing else. Of all windows that are open the lowest limit holds, so
//! their order means nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Windows of one policy: enough for every day of the week to have its own.
pub const WINDOWS_MAX: usize = 16;
/// Minutes of a day.
const DAY_MIN: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The longest name of a time zone: twice what the longest known one has.
const ZONE_BYTES_MAX: usize = 64;

/// What the copier may send: to a mirror that is filled, or brought up to date. What hosts write is
/// never held back by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bandwidth {
    /// Bytes a second outside all windows; `None`: as many as go.
    pub usual: Option<u64>,
    /// When another limit holds.
    pub windows: Arc<[Window]>,
}

/// A time of day at which another limit holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// The days on which it opens.
    pub days: Days,
    /// When it opens, in minutes since midnight.
    pub from_min: u16,
    /// When it closes: on the next day, if that is not later.
    pub to_min: u16,
    /// Whose clock, by the name of the time zone.
    pub zone: Zone,
    /// Bytes a second while it is open; 0: nothing is copied.
    pub bytes_per_second: u64,
}

/// Days of the week, Monday first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Days(u8);

/// The name of a time zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Zone(Arc<str>);

/// What a clock on a wall shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallTime {
    /// Days since Monday.
    pub day: u8,
    /// Minutes since midnight.
    pub minute: u16,
}

/// Why a text is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WindowError(String);

// === impl Bandwidth ===

impl Bandwidth {
    /// The limit that holds at this moment; `wall` shows the time of day in a zone, or `None` for a
    /// zone that is not known.
    pub fn limit_at(&self, wall: impl Fn(&Zone) -> Option<WallTime>) -> Option<u64> {
        // Nobody knows whether a window of an unknown zone is open. It counts as open: nothing may go
        // faster than an operator allowed.
        let open = self.windows.iter().filter(|w| wall(&w.zone).is_none_or(|now| w.is_open(now)));
        open.map(|window| window.bytes_per_second).min().or(self.usual)
    }

    /// Whether the limit depends on the time.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }
}

// === impl Window ===

impl Window {
    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self, now: WallTime) -> bool {
        let yesterday = (now.day + 6) % 7;
        if self.from_min < self.to_min {
            return self.days.has(now.day) && (self.from_min..self.to_min).contains(&now.minute);
        }
        // It opened today, or yesterday and goes on after midnight.
        (self.days.has(now.day) && now.minute >= self.from_min)
            || (self.days.has(yesterday) && now.minute < self.to_min)
    }
}

/// As it is written, without the limit: `mon-fri 08:00-18:00 Europe/Berlin`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let (from, to) = (time(self.from_min), time(self.to_min));
        write!(f, "{} {from}-{to} {}", self.days, self.zone.name())
    }
}

impl Window {
    /// Reads what [`fmt::Display`] writes. The days may be left out (every day), and so may the zone
    /// (UTC).
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse(text: &str, bytes_per_second: u64) -> Result<Self, WindowError> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let is_time = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let days = match words.first() {
            Some(word) if !is_time(word) => words.remove(0).parse()?,
            _ => Days::ALL,
        };
        let (times, zone) = match words.as_slice() {
            [times] => (*times, "UTC"),
            [times, zone] => (*times, *zone),
            _ => {
                let why = "a window is like \"mon-fri 08:00-18:00 Europe/Berlin\"";
                return Err(WindowError(format!("{text:?}: {why}")));
            }
        };
        let (from, to) = times
            .split_once('-')
            .ok_or_else(|| WindowError(format!("{times:?} is no time like 08:00-18:00")))?;
        let (from_min, to_min) = (minute(from)?, minute(to)?);
        if from_min == to_min || from_min == DAY_MIN {
            let why = "it would never open; all day is 00:00-24:00";
            return Err(WindowError(format!("{times:?}: {why}")));
        }
        Ok(Self { days, from_min, to_min, zone: Zone::new(zone)?, bytes_per_second })
    }

    /// Whether it is one that [`Window::parse`] could have read.
    pub(crate) fn is_valid(&self) -> bool {
        let times = self.from_min < DAY_MIN && self.to_min <= DAY_MIN;
        times && self.from_min != self.to_min && self.days.0 != 0
    }
}

fn minute(text: &str) -> Result<u16, WindowError> {
    let wrong = || WindowError(format!("{text:?} is no time of day like 08:00"));
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str| -> Option<u16> {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let (hours, minutes) = number(hours).zip(number(minutes)).ok_or_else(wrong)?;
    let minute = hours * 60 + minutes;
    if minutes < 60 && minute <= DAY_MIN { Ok(minute) } else { Err(wrong()) }
}

// === impl Days ===

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    const fn has(self, day: u8) -> bool {
        self.0 & (1 << day) != 0
    }

    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    pub(crate) fn of_bits(bits: u8) -> Option<Self> {
        (bits != 0 && bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }
}

/// `mon-fri`, `sat,sun`, or `fri-mon`, which goes around.
impl FromStr for Days {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let day = |word: &str| {
            let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(word));
            let found = found.ok_or_else(|| {
                WindowError(format!("{word:?} is no day; days are mon tue wed thu fri sat sun"))
            });
            found.map(|at| u8::try_from(at).expect("a week has seven days"))
        };
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut at, last) = (day(first)?, day(last)?);
            days |= 1 << last;
            while at != last {
                days |= 1 << at;
                at = (at + 1) % 7;
            }
        }
        Ok(Self(days))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut day = 0;
        while day < 7 {
            let run = (day..7).take_while(|at| self.has(*at)).count();
            let first = DAYS[usize::from(day)];
            if run > 2 {
                parts.push(format!("{first}-{}", DAYS[usize::from(day) + run - 1]));
                day += u8::try_from(run).expect("a week has seven days");
                continue;
            }
            if run > 0 {
                parts.push(first.to_owned());
            }
            day += 1;
        }
        f.write_str(&parts.join(","))
    }
}

// === impl Zone ===

impl Zone {
    /// A zone with this name; whether there is one, only a clock knows.
    ///
    /// # Errors
    /// For what cannot be a name.
    pub fn new(name: &str) -> Result<Self, WindowError> {
        let fits = !name.is_empty() && name.len() <= ZONE_BYTES_MAX;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
        if fits && plain {
            Ok(Self(name.into()))
        } else {
            Err(WindowError(format!("{name:?} is no name of a time zone like Europe/Berlin")))
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// What the clocks there show.
    #[must_use]
    pub fn wall_time(&self, unix_ms: u64) -> Option<WallTime> {
        let zone = jiff::tz::TimeZone::get(&self.0).ok()?;
        let now = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        let now = now.to_zoned(zone);
        let day = u8::try_from(now.weekday().to_monday_zero_offset()).ok()?;
        let minute = u16::try_from(now.hour()).ok()? * 60 + u16::try_from(now.minute()).ok()?;
        Some(WallTime { day, minute })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(text: &str, bytes_per_second: u64) -> Window {
        Window::parse(text, bytes_per_second).unwrap()
    }

    fn at(day: u8, hour: u16, minute: u16) -> WallTime {
        WallTime { day, minute: hour * 60 + minute }
    }

    #[test]
    fn windows_are_read_and_printed() {
        let cases = [
            ("08:00-18:00", "mon-sun 08:00-18:00 UTC"),
            ("mon-fri 08:00-18:00 Europe/Berlin", "mon-fri 08:00-18:00 Europe/Berlin"),
            ("Sat,sun 00:00-24:00", "sat,sun 00:00-24:00 UTC"),
            ("fri-mon 22:00-06:00 Etc/GMT+3", "mon,fri-sun 22:00-06:00 Etc/GMT+3"),
        ];
        for (text, printed) in cases {
            assert_eq!(window(text, 1).to_string(), printed);
            assert_eq!(window(printed, 1), window(text, 1));
        }
        for wrong in [
            "",
            "mon",
            "8:00-18:00",
            "08:00",
            "08:00-08:00",
            "24:00-08:00",
            "08:00-24:01",
            "08:60-09:00",
            "day 08:00-09:00",
            "08:00-09:00 two words",
            "08:00-09:00 ../etc/passwd.",
        ] {
            assert!(Window::parse(wrong, 1).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_lowest_limit_of_the_open_windows_holds() {
        let bandwidth = Bandwidth {
            usual: Some(50),
            windows: [
                window("mon-fri 08:00-18:00", 10),
                window("mon 09:00-10:00", 0),
                window("sat 22:00-06:00", 90),
            ]
            .into(),
        };
        let limit = |now| bandwidth.limit_at(|_zone| Some(now));
        assert_eq!(limit(at(0, 7, 59)), Some(50));
        assert_eq!(limit(at(0, 8, 0)), Some(10));
        assert_eq!(limit(at(0, 9, 30)), Some(0));
        assert_eq!(limit(at(0, 18, 0)), Some(50));
        assert_eq!(limit(at(5, 12, 0)), Some(50));
        assert_eq!(limit(at(5, 23, 0)), Some(90));
        assert_eq!(limit(at(6, 5, 59)), Some(90));
        assert_eq!(limit(at(6, 6, 0)), Some(50));
        assert_eq!(limit(at(6, 23, 0)), Some(50));
        // A clock that is not known to anybody opens nothing up.
        assert_eq!(bandwidth.limit_at(|_zone| None), Some(0));
        assert_eq!(Bandwidth::default().limit_at(|_zone| None), None);
    }

    /// 25 October 2026: clocks in Berlin go back from 03:00 to 02:00 at 01:00 UTC.
    #[test]
    fn a_zone_knows_when_its_clocks_change() {
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let utc = Zone::new("UTC").unwrap();
        let before = 1_792_886_400_000 + 30 * 60_000;
        assert_eq!(utc.wall_time(before), Some(at(6, 0, 30)));
        assert_eq!(berlin.wall_time(before), Some(at(6, 2, 30)));
        assert_eq!(berlin.wall_time(before + 3_600_000), Some(at(6, 2, 30)));
        assert_eq!(berlin.wall_time(before + 7_200_000), Some(at(6, 3, 30)));
        assert_eq!(Zone::new("Europe/Atlantis").unwrap().wall_time(before), None);
    }

    proptest! {
        /// A window is open for as many minutes of a week as it says, whatever it is.
        #[test]
        fn a_window_is_open_as_long_as_it_says(days in 1u8..128, from in 0u16..1440, to in 0u16..=1440) {
            prop_assume!(from != to);
            let days = Days::of_bits(days).unwrap();
            let zone = Zone::new("UTC").unwrap();
            let window = Window { days, from_min: from, to_min: to, zone, bytes_per_second: 0 };
            let week = (0..7).flat_map(|day| (0..1440).map(move |minute| WallTime { day, minute }));
            let open = week.filter(|now| window.is_open(*now)).count();
            let long = usize::from(if from < to { to - from } else { 1440 - from + to });
            prop_assert_eq!(open, long * usize::try_from(days.bits().count_ones()).unwrap());
            let again = Window::parse(&window.to_string(), 0).unwrap();
            prop_assert_eq!(again, window);
        }
    }
}

//! Decoders under hostile input: valid inputs, changed in ways that know how formats are made.
//!
//! ```text
//!   corpus, tokens ─▶ Mutator ─▶ repair (checksums) ─▶ decoder
//!                                                        ├─ refuses, or understands and says the same again
//!                                                        ├─ does not panic
//!                                                        ╰─ takes no more memory than it may
//! ```
//!
//! Invariant: the inputs follow from the corpus and the round's number alone, so a failure is found
//! again by running the same test; `TWINSPAN_FUZZ` only says how many rounds there are. A decoder that
//! understands nothing of what is changed, or everything, fails its test: it would have tested nothing.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::heap;

/// Rounds of each decoder, unless `TWINSPAN_FUZZ` says otherwise: a second or two of a core.
const ROUNDS: u64 = 20_000;
/// The longest input that is made: a few times what any seed has.
const BYTES_MAX: usize = 64 << 10;
/// Numbers that formats stumble over.
const NUMBERS: [u64; 17] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// How many rounds were asked for.
#[must_use]
pub fn rounds() -> u64 {
    std::env::var("TWINSPAN_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// What a decoder made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is none.
    Refused,
    /// It was understood; the decoder compared what it encodes again itself.
    Understood,
}

impl Made {
    /// Whether it was understood.
    #[must_use]
    pub const fn of(understood: bool) -> Self {
        if understood { Self::Understood } else { Self::Refused }
    }
}

/// One decoder's test.
pub struct Fuzz {
    mutator: Mutator,
    repair: fn(&mut [u8]),
    memory: usize,
    picky: bool,
}

impl Fuzz {
    /// Begins with these inputs, each of which the decoder must understand.
    #[must_use]
    pub fn new(corpus: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { mutator: Mutator::new(corpus, &[]), repair: |_| (), memory: 1 << 20, picky: true }
    }

    /// Words of the format: they are put into inputs as they are.
    #[must_use]
    pub fn tokens(mut self, tokens: &[&[u8]]) -> Self {
        self.mutator.tokens = tokens.iter().map(|token| token.to_vec()).collect();
        self
    }

    /// Sets right what would hide everything else: checksums. Three inputs of four are repaired.
    #[must_use]
    pub fn repaired(mut self, repair: fn(&mut [u8])) -> Self {
        self.repair = repair;
        self
    }

    /// Bytes of memory that one input may make the decoder hold, beside 64 for each byte of it.
    #[must_use]
    pub const fn within(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// The decoder has a meaning for every input.
    #[must_use]
    pub const fn takes_everything(mut self) -> Self {
        self.picky = false;
        self
    }

    /// Gives the decoder its inputs.
    ///
    /// # Panics
    /// When the decoder does, or takes too much memory, or proves nothing.
    pub fn run(self, mut decode: impl FnMut(&[u8]) -> Made) {
        for seed in self.mutator.corpus.clone() {
            let made = self.one(&seed, &mut decode);
            assert_eq!(made, Made::Understood, "a seed is not understood: {}", shown(&seed));
        }
        let (mut understood, rounds) = (0, rounds());
        for round in 0..rounds {
            let mut input = self.mutator.input(round);
            if round % 4 != 0 {
                (self.repair)(&mut input);
            }
            if self.one(&input, &mut decode) == Made::Understood {
                understood += 1;
            }
        }
        // Fewer rounds than the default may miss either.
        if rounds >= ROUNDS {
            assert!(understood > 0, "nothing that was changed is understood");
            assert!(understood < rounds || !self.picky, "nothing is refused");
        }
    }

    fn one(&self, input: &[u8], decode: &mut impl FnMut(&[u8]) -> Made) -> Made {
        let decoded = catch_unwind(AssertUnwindSafe(|| heap::most(|| decode(input))));
        let (made, most) = match decoded {
            Ok(done) => done,
            Err(panic) => {
                tell(&format!("this input made it panic: {}", shown(input)));
                resume_unwind(panic);
            }
        };
        let limit = self.memory + 64 * input.len();
        assert!(most <= limit, "{most} bytes for an input of {}: {}", input.len(), shown(input));
        made
    }
}

#[expect(clippy::print_stderr, reason = "whoever reads of the panic needs the input")]
fn tell(what: &str) {
    eprintln!("{what}");
}

/// An input in hexadecimal, as much of it as anybody reads.
fn shown(input: &[u8]) -> String {
    let hex: String = input.iter().take(2048).map(|byte| format!("{byte:02x}")).collect();
    if input.len() > 2048 { format!("{hex}… ({} bytes)", input.len()) } else { hex }
}

/// Numbers that follow from a seed.
#[derive(Clone, Debug)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            return 0;
        }
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Changes inputs.
#[derive(Clone, Debug)]
struct Mutator {
    corpus: Vec<Vec<u8>>,
    tokens: Vec<Vec<u8>>,
}

/// A number in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    at: usize,
    bytes: usize,
    big: bool,
}

impl Field {
    fn get(self, input: &[u8]) -> u64 {
        let raw = &input[self.at..self.at + self.bytes];
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if self.big { raw.iter().fold(0, add) } else { raw.iter().rev().fold(0, add) }
    }

    fn set(self, input: &mut [u8], value: u64) {
        let all = value.to_be_bytes();
        let raw = &mut input[self.at..self.at + self.bytes];
        raw.copy_from_slice(&all[8 - self.bytes..]);
        if !self.big {
            raw.reverse();
        }
    }
}

impl Mutator {
    fn new(corpus: impl IntoIterator<Item = Vec<u8>>, tokens: &[&[u8]]) -> Self {
        let corpus: Vec<Vec<u8>> = corpus.into_iter().collect();
        assert!(!corpus.is_empty(), "there is nothing to begin with");
        Self { corpus, tokens: tokens.iter().map(|token| token.to_vec()).collect() }
    }

    /// The input of a round.
    fn input(&self, round: u64) -> Vec<u8> {
        let mut numbers = Numbers(round);
        let mut input = self.corpus[numbers.below(self.corpus.len())].clone();
        // Most are changed a little: what is changed a lot is refused at its first byte.
        let times = 1 << numbers.below(4);
        for _ in 0..times {
            self.change(&mut input, &mut numbers);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&self, input: &mut Vec<u8>, numbers: &mut Numbers) {
        let at = numbers.below(input.len() + 1);
        let some = 1 + numbers.below(16);
        match numbers.below(12) {
            0 => flip(input, numbers),
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = numbers.byte();
                }
            }
            2 | 3 => number(input, numbers),
            4 => drop(input.drain(at..(at + some).min(input.len()))),
            5 => drop(input.splice(at..at, (0..some).map(|_| numbers.byte()).collect::<Vec<u8>>())),
            6 => input.truncate(at),
            7 => repeat(input, at, numbers),
            8 => self.cross(input, at, numbers),
            9 => self.token(input, at, numbers),
            // What is longer or shorter, and says so.
            _ => resize(input, numbers),
        }
    }

    /// Goes on as another input does.
    fn cross(&self, input: &mut Vec<u8>, at: usize, numbers: &mut Numbers) {
        let other = &self.corpus[numbers.below(self.corpus.len())];
        let from =
            if numbers.below(2) == 0 { at.min(other.len()) } else { numbers.below(other.len()) };
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    }

    fn token(&self, input: &mut Vec<u8>, at: usize, numbers: &mut Numbers) {
        let Some(token) = self.tokens.get(numbers.below(self.tokens.len())) else {
            return flip(input, numbers);
        };
        let replaced = if numbers.below(2) == 0 { token.len() } else { 0 };
        drop(input.splice(at..(at + replaced).min(input.len()), token.iter().copied()));
    }
}

fn flip(input: &mut [u8], numbers: &mut Numbers) {
    let at = numbers.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << numbers.below(8);
    }
}

fn field(input: &[u8], numbers: &mut Numbers) -> Option<Field> {
    let bytes = [1, 2, 3, 4, 8][numbers.below(5)];
    let at = numbers.below(input.len().checked_sub(bytes)? + 1);
    Some(Field { at, bytes, big: numbers.below(2) == 0 })
}

/// Puts another number in the place of one.
fn number(input: &mut [u8], numbers: &mut Numbers) {
    let Some(field) = field(input, numbers) else { return };
    let old = field.get(input);
    let value = match numbers.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => input.len() as u64,
        _ => NUMBERS[numbers.below(NUMBERS.len())],
    };
    field.set(input, value);
}

/// Says a part once more, or often.
fn repeat(input: &mut Vec<u8>, at: usize, numbers: &mut Numbers) {
    let len = (1 + numbers.below(64)).min(input.len() - at.min(input.len()));
    let part = input[at..at + len].to_vec();
    let times = if numbers.below(8) == 0 { 1 + numbers.below(300) } else { 1 };
    drop(input.splice(at..at, part.repeat(times)));
}

/// Makes what a length speaks of longer or shorter, and the length with it.
fn resize(input: &mut Vec<u8>, numbers: &mut Numbers) {
    let lengths = lengths(input);
    let Some((field, start, len)) = lengths.get(numbers.below(lengths.len())).copied() else {
        return number(input, numbers);
    };
    let at = start + numbers.below(len + 1);
    let new = if numbers.below(2) == 0 {
        let cut = (1 + numbers.below(16)).min(start + len - at);
        drop(input.drain(at..at + cut));
        len - cut
    } else {
        let more: Vec<u8> = (0..=numbers.below(16)).map(|_| numbers.byte()).collect();
        let new = len + more.len();
        drop(input.splice(at..at, more));
        new
    };
    field.set(input, new as u64);
}

/// Numbers that may be the length of what follows them: of all that is left, or of what stands at once
/// behind them. With each, where that begins and how long it is.
fn lengths(input: &[u8]) -> Vec<(Field, usize, usize)> {
    let mut found = Vec::new();
    // What is far behind is rarely a header.
    for at in 0..input.len().min(256) {
        for (bytes, big) in [(1, true), (2, true), (2, false), (3, true), (4, true), (4, false)] {
            if at + bytes > input.len() {
                continue;
            }
            let field = Field { at, bytes, big };
            let Ok(value) = usize::try_from(field.get(input)) else { continue };
            let behind = at + bytes;
            if value == 0 || value > input.len() {
                continue;
            }
            // Of all that is left, wherever that begins.
            let start = input.len() - value;
            if start >= behind && bytes > 1 {
                found.push((field, start, value));
            } else if behind + value <= input.len() && value > 1 {
                found.push((field, behind, value));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A format that has everything: a magic, a list of texts with lengths, a checksum.
    fn encode(texts: &[&[u8]]) -> Vec<u8> {
        let mut out = b"LIST".to_vec();
        out.push(u8::try_from(texts.len()).unwrap());
        for text in texts {
            out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            out.extend(*text);
        }
        out.push(0);
        seal(&mut out);
        out
    }

    fn seal(out: &mut [u8]) {
        if let Some((last, body)) = out.split_last_mut() {
            *last = body.iter().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
        }
    }

    fn decode(input: &[u8], careless: bool) -> Option<Vec<&[u8]>> {
        let (_, mut rest) = input.split_last()?;
        let mut again = input.to_vec();
        seal(&mut again);
        rest = rest.strip_prefix(b"LIST").filter(|_| again == input)?;
        let (count, mut rest) = rest.split_first()?;
        let mut texts = Vec::new();
        for _ in 0..*count {
            let (len, behind) = rest.split_first_chunk::<2>()?;
            let len = usize::from(u16::from_be_bytes(*len));
            let (text, behind) =
                if careless { behind.split_at(len) } else { behind.split_at_checked(len)? };
            texts.push(text);
            rest = behind;
        }
        rest.is_empty().then_some(texts)
    }

    fn fuzz() -> Fuzz {
        Fuzz::new([encode(&[b"one", b"", b"three"]), encode(&[])]).repaired(seal)
    }

    #[test]
    fn a_sound_decoder_passes() {
        fuzz().run(|input| {
            let texts = decode(input, false);
            if let Some(texts) = &texts {
                assert_eq!(encode(texts), input);
            }
            Made::of(texts.is_some())
        });
    }

    #[test]
    #[should_panic(expected = "mid > len")]
    fn a_length_that_is_believed_is_found() {
        fuzz().run(|input| Made::of(decode(input, true).is_some()));
    }

    #[test]
    #[should_panic(expected = "bytes for an input of")]
    fn memory_that_is_taken_for_what_is_only_said_is_found() {
        fuzz().run(|input| {
            let said = input
                .get(5..9)
                .map_or(0, |raw| u32::from_be_bytes(raw.try_into().expect("four bytes")));
            let taken = Vec::<u8>::with_capacity(usize::try_from(said).unwrap_or(0).min(1 << 24));
            Made::of(decode(input, false).is_some() && taken.is_empty())
        });
    }

    #[test]
    #[should_panic(expected = "nothing is refused")]
    fn a_decoder_that_takes_everything_proves_nothing() {
        fuzz().run(|_| Made::Understood);
    }

    #[test]
    fn a_round_is_the_same_whenever_it_is_made() {
        let mutator = fuzz().mutator;
        for round in 0..500 {
            assert_eq!(mutator.input(round), mutator.clone().input(round));
        }
    }
}

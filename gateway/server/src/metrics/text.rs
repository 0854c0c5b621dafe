//! The text format of Prometheus, for gauges that are made anew for each scrape.
//!
//! Invariant: each family is written once, with its help and type before its samples.

use std::fmt::Write;

/// Families and their samples, in the order of first use.
#[derive(Debug, Default)]
pub(super) struct Families {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<String>,
}

/// One label.
pub(super) type Label<'a> = (&'static str, &'a str);

impl Families {
    /// A sample of a gauge.
    pub(super) fn gauge(
        &mut self,
        (name, help): (&'static str, &'static str),
        labels: &[Label<'_>],
        value: f64,
    ) {
        self.sample(("gauge", name, help), labels, value);
    }

    /// A sample of a counter.
    pub(super) fn counter(
        &mut self,
        (name, help): (&'static str, &'static str),
        labels: &[Label<'_>],
        value: f64,
    ) {
        self.sample(("counter", name, help), labels, value);
    }

    fn sample(
        &mut self,
        (kind, name, help): (&'static str, &'static str, &'static str),
        labels: &[Label<'_>],
        value: f64,
    ) {
        let mut line = name.to_owned();
        for (index, (key, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            write!(line, "{open}{key}=\"{}\"", escape(text)).expect("a string takes everything");
        }
        if !labels.is_empty() {
            line.push('}');
        }
        write!(line, " {value}").expect("a string takes everything");
        match self.families.iter_mut().find(|family| family.name == name) {
            Some(family) => family.samples.push(line),
            None => self.families.push(Family { name, kind, help, samples: vec![line] }),
        }
    }

    /// The text.
    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        for Family { name, kind, help, samples } in &self.families {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
                .expect("a string takes everything");
            for sample in samples {
                writeln!(out, "{sample}").expect("a string takes everything");
            }
        }
        out
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_once() {
        let mut families = Families::default();
        families.gauge(("a", "first."), &[("x", "q\"\\\n")], 1.0);
        families.gauge(("b", "second."), &[], 2.5);
        families.gauge(("a", "first."), &[("x", "y"), ("z", "w")], 0.0);
        let expected = "# HELP a first.\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\"} 1\n\
                        a{x=\"y\",z=\"w\"} 0\n# HELP b second.\n# TYPE b gauge\nb 2.5\n";
        assert_eq!(families.render(), expected);
    }
}

//! Plugins: what is installed, what it may, and how it is.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// The language of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Rust, with cargo.
    Rust,
    /// C, with clang and wasi-libc.
    C,
    /// JavaScript, with npm.
    Js,
}

/// `twinspan plugin new`
#[derive(Debug, Args)]
pub(crate) struct PluginNew {
    /// Its name: lower case letters, digits and hyphens.
    pub(crate) name: String,
    /// The language.
    #[arg(long, value_enum)]
    pub(crate) lang: Language,
    /// The folder that is made; by default of the plugin's name.
    #[arg(long)]
    pub(crate) at: Option<PathBuf>,
}

/// `twinspan plugin build`
#[derive(Debug, Args)]
pub(crate) struct PluginBuild {
    /// The folder with Cargo.toml, plugin.c or plugin.js.
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// What it exports, for C and JavaScript: a world of the contract.
    #[arg(long, default_value = "action-plugin")]
    pub(crate) world: String,
}

/// `twinspan plugin check`
#[derive(Debug, Args)]
pub(crate) struct PluginCheck {
    /// The component, a `.wasm` file.
    pub(crate) file: PathBuf,
    /// Its configuration: a file with a JSON object.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// What it is granted beside all that it wants, as `plugin grant` takes it: `http:api.example.com`.
    #[arg(long = "grant")]
    pub(crate) grants: Vec<String>,
    /// Parameters of an action, `ACTION=FILE`; by default the first example of its schema.
    #[arg(long)]
    pub(crate) params: Vec<String>,
    /// What the other side answers: a file with a list of `{ "request": "GET /path/{id}", "status":
    /// 200, "body": {} }`.
    #[arg(long)]
    pub(crate) answers: Option<PathBuf>,
}

/// `twinspan plugin measure`
#[derive(Debug, Args)]
pub(crate) struct PluginMeasure {
    /// The component, a `.wasm` file.
    pub(crate) file: PathBuf,
    /// Rounds that each figure is the median of.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rounds: u32,
}

/// `twinspan plugin`
#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Begin a plugin of your own, in a folder; no gateway is asked
    New(PluginNew),
    /// Build a plugin of your own; the component is in its folder then
    Build(PluginBuild),
    /// Try a component as a gateway in bad moods would, and say which rules of the contract it breaks
    Check(PluginCheck),
    /// Say what an instance, a call and their memory cost of a component; no gateway is asked
    Measure(PluginMeasure),
    /// List plugins, what they lack, and what is wrong with them
    List,
    /// Show a plugin: its actions, its configuration and their schemas
    Show {
        /// The plugin.
        plugin: String,
    },
    /// Install a component, in the place of the plugin of its name; nothing that runs is disturbed
    Install {
        /// The component, a `.wasm` file; a signature is looked for beside it, as `FILE.sig`.
        file: PathBuf,
    },
    /// Remove a plugin
    Remove {
        /// The plugin.
        plugin: String,
        /// Also forget what it was granted, its configuration and what it kept.
        #[arg(long)]
        forget: bool,
    },
    /// Allow a plugin something: `http:HOST[:PORT]`, `secret:NAME`, `reveal:NAME`, `kv`, `volumes`,
    /// `folder:VOLUME`
    Grant {
        /// The plugin.
        plugin: String,
        /// What.
        #[arg(required_unless_present = "all")]
        grants: Vec<String>,
        /// All that it wants.
        #[arg(long, conflicts_with = "grants")]
        all: bool,
    },
    /// Take back what a plugin was allowed
    Revoke {
        /// The plugin.
        plugin: String,
        /// What.
        #[arg(required = true)]
        grants: Vec<String>,
    },
    /// Set a plugin's configuration; it is checked before it holds
    Configure {
        /// The plugin.
        plugin: String,
        /// A file with a JSON object; `-` is the standard input.
        file: PathBuf,
    },
    /// Ask a plugin whether it could work now: credentials, addresses, versions
    Probe {
        /// The plugin.
        plugin: String,
    },
    /// List the words that a plugin can be told
    Words {
        /// The plugin.
        plugin: String,
    },
    /// Tell a plugin a word, and show what it answers
    Say {
        /// The plugin.
        plugin: String,
        /// One of its words.
        word: String,
        /// What goes with it.
        #[arg(value_name = "NAME=VALUE", value_parser = super::runs::pair)]
        params: Vec<(String, String)>,
    },
    /// Show the last lines that a plugin said
    Logs {
        /// The plugin.
        plugin: String,
    },
}

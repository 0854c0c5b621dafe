//! Plugins: what is installed, what it may, and how it is.

use std::path::PathBuf;

use clap::Subcommand;

/// `twinspan plugin`
#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
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

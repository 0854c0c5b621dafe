//! Why a plugin could not be loaded, and why a call of one did not come to an answer.
//!
//! Invariant: every one of these names the plugin, or is told together with its name.

use std::time::Duration;

/// Why a component was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file.
    #[error("cannot read {file}: {why}")]
    File {
        /// Which.
        file: String,
        /// What the system said.
        why: String,
    },
    /// It is larger than any plugin needs to be.
    #[error("it has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// No component, or one that this engine cannot run.
    #[error("it is no WebAssembly component that can be run here: {0}")]
    NoComponent(String),
    /// It was built for a contract that this gateway does not serve.
    #[error("it needs {needed}, and this gateway serves {served}: build it for that version")]
    Contract {
        /// What it imports or exports.
        needed: String,
        /// What there is.
        served: String,
    },
    /// It imports what no gateway has.
    #[error("it asks for what a gateway does not have: {0}")]
    Import(String),
    /// It does not export what every plugin exports.
    #[error("it does not export {0}, which every plugin does")]
    NotAPlugin(String),
    /// It could not describe itself.
    #[error("it does not describe itself: {0}")]
    Describe(#[from] CallError),
    /// What it said of itself makes no sense.
    #[error("what it says of itself is wrong: {0}")]
    Descriptor(String),
    /// The file's name is another than the plugin's.
    #[error(
        "the file is called {file}, and the plugin in it {name}: rename the file to {name}.wasm"
    )]
    Name {
        /// Its file's name without the ending.
        file: String,
        /// What it calls itself.
        name: String,
    },
    /// A signature is required, and there is none that is right.
    #[error("its signature: {0}")]
    Signature(String),
}

/// Why a call came to no answer of the plugin's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No plugin of this name is loaded.
    #[error("there is no plugin {0}")]
    Unknown(String),
    /// It does not do that kind of thing at all.
    #[error("it does not export {0}")]
    Unsupported(&'static str),
    /// It has no such action.
    #[error("it has no action {0}")]
    UnknownAction(String),
    /// The parameters do not fit the action's schema.
    #[error("the parameters do not fit: {0}")]
    Parameters(String),
    /// It faulted again and again, and is not called for a while.
    #[error("it rests for {} s after it failed: {why}", left.as_secs().max(1))]
    Resting {
        /// How long.
        left: Duration,
        /// The last fault.
        why: String,
    },
    /// It trapped.
    #[error("it trapped: {0}")]
    Trap(String),
    /// It computed for too long.
    #[error("it computed for more than {} s", .0.as_secs())]
    Cpu(Duration),
    /// It did not answer in time.
    #[error("it did not answer within {} s", .0.as_secs())]
    Time(Duration),
    /// It wanted more memory than it may have.
    #[error("it wanted more than {} MiB of memory", .0 >> 20)]
    Memory(usize),
    /// It said more than it may.
    #[error("it handed over more than {} MiB", .0 >> 20)]
    Output(usize),
    /// Its answer breaks the contract.
    #[error("its answer breaks the contract: {0}")]
    Answer(String),
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopped,
}

impl CallError {
    /// The word for it in metrics.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Trap(_) | Self::Memory(_) | Self::Output(_) | Self::Answer(_) => "trap",
            Self::Cpu(_) => "out_of_cpu",
            Self::Time(_) => "timeout",
            Self::Unknown(_)
            | Self::Unsupported(_)
            | Self::UnknownAction(_)
            | Self::Parameters(_)
            | Self::Resting { .. }
            | Self::Stopped => "denied",
        }
    }

    /// Whether the plugin itself did it: such calls make it rest.
    pub(crate) const fn is_fault(&self) -> bool {
        match self {
            Self::Trap(_)
            | Self::Memory(_)
            | Self::Output(_)
            | Self::Answer(_)
            | Self::Cpu(_)
            | Self::Time(_) => true,
            Self::Unknown(_)
            | Self::Unsupported(_)
            | Self::UnknownAction(_)
            | Self::Parameters(_)
            | Self::Resting { .. }
            | Self::Stopped => false,
        }
    }
}

//! The witness as the configuration names it, handed to each group that is opened.
//!
//! Invariant: one thread asks for the whole gateway; each shard has its own way to it.

use block::GatewayId;
use mirror::Arbitration;
use mirror::machine::Terms;
use witness::etcd::{Etcd, EtcdConfig, EtcdError};

use crate::config::WitnessConfig;

/// Who decides when sites do not see each other.
#[derive(Clone, Default)]
pub(crate) enum Witnessing {
    /// An operator.
    #[default]
    Operator,
    /// An operator, also of groups that were under a witness.
    Abandoned,
    /// etcd.
    Etcd(Etcd, Terms),
}

impl Witnessing {
    /// What the configuration asks for.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub(crate) fn start(
        config: Option<&WitnessConfig>,
        gateway: GatewayId,
    ) -> Result<Self, EtcdError> {
        let Some(config) = config else { return Ok(Self::Operator) };
        let Some(etcd) = &config.etcd else { return Ok(Self::Abandoned) };
        let terms = Terms {
            gateway,
            lease_ms: config.lease_ms,
            hold_ms: config.hold_ms,
            failover_after_ms: config.failover_after_ms,
        };
        let read = |path: &std::path::PathBuf, what: &'static str| {
            std::fs::read_to_string(path).map_err(|error| {
                let why = format!("{}: {error}", path.display());
                EtcdError::Tls { what, why }
            })
        };
        let ca = etcd.ca.as_ref().map(|path| read(path, "ca")).transpose()?;
        let identity = match &etcd.identity {
            Some((certificate, key)) => {
                Some((read(certificate, "certificate")?, read(key, "key")?))
            }
            None => None,
        };
        let etcd = Etcd::start(EtcdConfig {
            name: etcd.name.clone(),
            endpoints: etcd.endpoints.clone(),
            prefix: etcd.prefix.clone(),
            timeout: etcd.timeout,
            ca,
            identity,
        })?;
        Ok(Self::Etcd(etcd, terms))
    }

    /// The same for one group, on its thread.
    pub(crate) fn arbitration(&self) -> Arbitration {
        match self {
            Self::Operator => Arbitration::Operator,
            Self::Abandoned => Arbitration::Abandoned,
            Self::Etcd(etcd, terms) => Arbitration::Witness { witness: etcd.way(), terms: *terms },
        }
    }
}

//! How a run is to be, beside its seed. Together they are all that a replay needs.

use crate::{
    faults::{Fault, Faults},
    mutation::Mutation,
    report::Counter,
};
use std::fmt;

/// What a run is told beside its seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// So many steps before the faults stop, instead of as many as the seed says.
    pub steps: Option<u64>,
    /// Kinds of fault that are left out.
    pub without: Vec<Fault>,
    /// What is done wrong on purpose.
    pub mutation: Option<Mutation>,
    /// Keep the readable trace.
    pub trace: bool,
}

impl Options {
    pub(crate) fn apply(&self, faults: &mut Faults) {
        let scenario = self.mutation.map_or(&[][..], Mutation::scenario);
        for (fault, factor) in scenario {
            faults.favour(*fault, *factor);
        }
        for fault in &self.without {
            faults.switch_off(*fault);
        }
    }

    /// The kind of fault with this name.
    #[must_use]
    pub fn fault(name: &str) -> Option<Fault> {
        let mut all = Fault::ALL.iter().copied();
        all.find(|fault| fault.name() == name || format!("{fault:?}") == name)
    }
}

/// As arguments of the `simulate` command.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(steps) = self.steps {
            write!(f, " --steps {steps}")?;
        }
        for fault in &self.without {
            write!(f, " --without {fault:?}")?;
        }
        if let Some(mutation) = self.mutation {
            write!(f, " --mutation {mutation:?}")?;
        }
        Ok(())
    }
}

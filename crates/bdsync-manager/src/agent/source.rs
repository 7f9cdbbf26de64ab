//! A source of the agent's machine, with a target of this one.

use std::path::Path;
use std::sync::Arc;

use bdsync_device::Device;
use bdsync_engine::Error;
use bdsync_engine::compare::{CompareOptions, CompareStats};
use bdsync_engine::tree::Differences;
use bdsync_target::ops::Compare;

use super::AgentSession;
use crate::end::SAMPLE;
use crate::failure::Failure;
use crate::local::{Difference, Source};
use crate::run::Job;

/// A source at the far end, with a target here.
pub(crate) struct AgentSource<'a> {
    pub(super) agent: AgentSession<'a>,
    pub(super) size: u64,
}

impl Source for AgentSource<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn compare(
        &mut self,
        target: &Arc<Device>,
        options: &CompareOptions,
        difference: &mut Difference<'_>,
        _: &Job<'_>,
    ) -> Result<CompareStats, Failure> {
        let mut shape = self.agent.shape(options.length)?;
        shape.parts = options.sample.map(|_| SAMPLE);
        let path = self.agent.task.source.to_string_lossy().into_owned();
        let mut request = Compare::new(&path, &shape);
        request.flush_cache = options.flush_cache;
        self.agent.begin(request, self.size)?;
        let found = self.agent.compare(target, &shape, true, &mut Fetched(difference))?;
        self.agent.end::<serde::de::IgnoredAny>(true)?;
        Ok(CompareStats {
            compared_bytes: found.compared_bytes,
            differing_blocks: found.differing_blocks,
            differing_bytes: found.differing_bytes,
        })
    }
}

struct Fetched<'a>(&'a mut Difference<'a>);

impl Differences for Fetched<'_> {
    fn differs(&mut self, _: u64, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn data(&mut self, position: u64, bytes: &[u8]) -> Result<(), Error> {
        (self.0)(position, bytes)
    }
}

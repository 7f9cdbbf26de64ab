//! A source behind a stock-compatible bdsync, with a target of this machine.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bdsync_device::Device;
use bdsync_engine::compare::{CompareOptions, CompareStats};
use bdsync_engine::{Context, Error, Event, Observer, SizePolicy};
use bdsync_proto::patch::PatchReader;
use tokio::runtime::Handle;

use super::{Far, as_parts};
use crate::end::size_changed;
use crate::failure::Failure;
use crate::local::{Difference, Source};
use crate::run::Job;

/// A source at the far end, with a target here: its server's blocks go into the patch.
pub(crate) struct FarSource<'a> {
    pub(super) far: Box<Far<'a>>,
    pub(super) size: u64,
}

impl Source for FarSource<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn compare(
        &mut self,
        target: &Arc<Device>,
        wanted: &CompareOptions,
        difference: &mut Difference<'_>,
        job: &Job<'_>,
    ) -> Result<CompareStats, Failure> {
        let mut options = self.far.diff_options(SizePolicy::Resize);
        if self.far.task.compare.size_policy == SizePolicy::MinSize && target.size() > 0 {
            options.size_policy = SizePolicy::MinSize;
        }
        options.remote_data = true;
        options.sample = wanted.sample.map(as_parts);
        let (reader, writer) = io::pipe().map_err(|error| Failure::new(format!("cannot make a pipe: {error}")))?;
        let far = &self.far;
        let stop = job.control.cancellation.clone();
        // The thread has the session; what it finds is dealt with here, in order.
        let (result, end, taken) = std::thread::scope(|scope| {
            let context = Handle::current();
            let options = &options;
            let compared = scope.spawn(move || {
                let _entered = context.enter();
                let quiet = |_: &Event| {};
                let context = Context { observer: &quiet, cancellation: &stop };
                far.compare_with(target, options, writer, context)
            });
            let mut taken = CompareStats::default();
            let take = || -> Result<(), Error> {
                let mut patch = PatchReader::new(reader)?;
                while let Some(record) = patch.next_record()? {
                    taken.differing_blocks += (record.data.len() as u64).div_ceil(options.block_size);
                    taken.differing_bytes += record.data.len() as u64;
                    difference(record.position, record.data)?;
                    let (size, patch_bytes) = (self.size, taken.differing_bytes);
                    Observer::event(job.reporter, &Event::Progress { position: record.position, size, patch_bytes });
                }
                Ok(())
            };
            let took = take();
            match compared.join() {
                Ok((result, end)) => (result.map(|(_, stats)| stats), end, took.map(|()| taken)),
                Err(_) => (
                    Err(Error::Cancelled),
                    Err(Failure::new("comparing ended in a way that it must not")),
                    Err(Error::Cancelled),
                ),
            }
        });
        match (result, taken) {
            // What the patch's taker says is the cause of a patch that cannot be written.
            (Err(Error::WritePatch(_)) | Ok(_), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(self.far.blame(error, end)),
            (Ok(stats), Ok(mut taken)) => {
                end.and_then(|end| end.success())?;
                if stats.remote_bytes != self.size {
                    let (source, far) = (self.far.task.source.to_string_lossy(), self.far.connection.name());
                    return Err(size_changed(&source, far, self.size, stats.remote_bytes));
                }
                taken.compared_bytes = stats.compared_bytes;
                Ok(taken)
            }
        }
    }
}

//! Lines of waiting tasks, and the rings and turns through which leases find them. A line that nothing leads to starves its tenant.

use super::{
    Audit, FsckError, PAGE, Problem, Script,
    names::{self, Line},
};

/// Stands for a location where only the turn is asked about; no location has such a name.
const TURN_ALONE: &[u8] = b":";

impl Audit {
    /// Compares all lines, rings and turns of a shard.
    pub(super) async fn lines(&mut self, shard: u16) -> Result<(), FsckError> {
        let found = self.found.remove(&shard).unwrap_or_default();
        let lines: Vec<Line> = found.lines.into_iter().collect();
        self.compare_lines(shard, &lines).await?;
        for (band, location) in found.rings {
            let name = [format!("pending:ring:{band}:").as_bytes(), location.as_slice()].concat();
            self.members(shard, &name, band, &location).await?;
        }
        for band in 0..3 {
            let name = format!("pending:turns:{band}");
            self.members(shard, name.as_bytes(), band, TURN_ALONE).await?;
        }
        Ok(())
    }

    /// Compares the lines of all tenants in a ring, or their turns.
    async fn members(&mut self, shard: u16, name: &[u8], band: u8, location: &[u8]) -> Result<(), FsckError> {
        let key = names::of_shard(shard, name);
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            if self.unreadable.contains(&shard) {
                return Ok(());
            }
            let Some((next, entries)) = self.page("ZSCAN", shard, &key, at).await? else { return Ok(()) };
            cursor = next;
            let lines: Vec<Line> = entries
                .into_iter()
                .step_by(2)
                .map(|tenant| Line { band, location: location.to_vec(), tenant })
                .collect();
            self.compare_lines(shard, &lines).await?;
        }
        Ok(())
    }

    async fn compare_lines(&mut self, shard: u16, lines: &[Line]) -> Result<(), FsckError> {
        let repair = self.options.repair;
        for lines in lines.chunks(PAGE) {
            if self.unreadable.contains(&shard) {
                return Ok(());
            }
            let mut call = Self::script(Script::FsckLines, shard).arg(u8::from(repair));
            for line in lines {
                call.push(line.band);
                call.push(line.location.as_slice());
                call.push(line.tenant.as_slice());
            }
            let Some(mut answer) = self.call(shard, call).await? else { return Ok(()) };
            for line in lines {
                let problem = match answer.integer()? {
                    1..=3 => Problem::Starved,
                    4 | 5 => Problem::StaleTurn,
                    _ => continue,
                };
                self.report.add(problem, &names::of_shard(shard, &names::of_line(line)), repair);
            }
        }
        Ok(())
    }
}

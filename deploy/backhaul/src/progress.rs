//! The progress display of `watch`: bars on a terminal, a line per change otherwise, nothing but results with `--json`.
//!
//! Shows only what it is told; asks nobody.

use std::{collections::BTreeMap, fmt, io};

use backhaul_proto::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::{object, output::Output, view};

/// Copies shown with a bar of their own; more would scroll the terminal.
const MAX_BARS: usize = 8;

/// Shows how tasks move.
pub(crate) struct Display {
    output: Output,
    bars: Option<Bars>,
    states: BTreeMap<String, v1::TaskState>,
}

struct Bars {
    group: MultiProgress,
    all: ProgressBar,
    copies: BTreeMap<String, ProgressBar>,
}

#[derive(Serialize)]
struct Refused<'a> {
    task_id: &'a str,
    error: String,
}

impl Display {
    /// A display for `tasks` tasks, with bars when standard error is a terminal.
    pub(crate) fn new(output: Output, tasks: usize) -> Self {
        let bars = (!output.is_json() && io::IsTerminal::is_terminal(&io::stderr()))
            .then(|| Bars::new(tasks as u64));
        Self { output, bars, states: BTreeMap::new() }
    }

    /// A task as it is now, not yet finished.
    pub(crate) fn update(&mut self, task: &v1::Backup) {
        let changed = self.states.insert(task.task_id.clone(), task.state()) != Some(task.state());
        match &mut self.bars {
            Some(bars) => bars.update(task),
            None if changed && !view::is_finished(task) && !self.output.is_json() => {
                // A closed standard error ends nothing: the results still go to standard output.
                write_stderr(&view::line(task)).ok();
            }
            None => {}
        }
    }

    /// A task that is finished.
    pub(crate) fn finished(&mut self, task: &v1::Backup) -> io::Result<()> {
        if let Some(bars) = &mut self.bars {
            bars.finish(&task.task_id);
        }
        self.result(|output| output.item(|| view::json(task), || view::line(task)))
    }

    /// A task that the dispatcher would not show.
    pub(crate) fn refused(&mut self, task_id: &str, error: &dyn fmt::Display) -> io::Result<()> {
        if let Some(bars) = &mut self.bars {
            bars.finish(task_id);
        }
        self.result(|output| {
            output.item(|| Refused { task_id, error: error.to_string() }, || format!("{task_id}  {error}"))
        })
    }

    /// Takes the bars away.
    pub(crate) fn end(self) {
        if let Some(bars) = self.bars {
            bars.all.finish_and_clear();
        }
    }

    fn result(&self, print: impl FnOnce(Output) -> io::Result<()>) -> io::Result<()> {
        match &self.bars {
            Some(bars) => bars.group.suspend(|| print(self.output)),
            None => print(self.output),
        }
    }
}

impl Bars {
    fn new(tasks: u64) -> Self {
        let group = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let all = group.add(ProgressBar::new(tasks));
        all.set_style(style("{bar:30.green} {pos} of {len} tasks  {elapsed}"));
        Self { group, all, copies: BTreeMap::new() }
    }

    fn update(&mut self, task: &v1::Backup) {
        let Some(progress) = task.progress.filter(|_| task.state() == v1::TaskState::Working) else {
            if let Some(bar) = self.copies.remove(&task.task_id) {
                bar.finish_and_clear();
            }
            return;
        };
        if self.copies.len() >= MAX_BARS && !self.copies.contains_key(&task.task_id) {
            return;
        }
        let group = &self.group;
        let bar = self.copies.entry(task.task_id.clone()).or_insert_with(|| {
            let bar = group.add(ProgressBar::new(0));
            bar.set_style(style("  {bar:28} {binary_bytes:>11} of {binary_total_bytes:<11} {wide_msg}"));
            bar.set_message(task.object.as_ref().map(object::display).unwrap_or_default());
            bar
        });
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    }

    fn finish(&mut self, task_id: &str) {
        if let Some(bar) = self.copies.remove(task_id) {
            bar.finish_and_clear();
        }
        self.all.inc(1);
    }
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Display")
            .field("output", &self.output)
            .field("states", &self.states)
            .finish_non_exhaustive()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn write_stderr(line: &str) -> io::Result<()> {
    use io::Write as _;
    writeln!(io::stderr().lock(), "{line}")
}

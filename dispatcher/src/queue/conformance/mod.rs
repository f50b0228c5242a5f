//! The conformance suite: what every [`TaskQueue`](super::TaskQueue) must do, asked of whichever queue a [`Factory`] makes.
//!
//! Directed cases, each a sentence, stand beside the part of the contract they hold; `random` compares long random histories with the
//! reference queue. Nothing here may know how a queue is built: only the trait, a virtual clock and settings.
//!
//! ```text
//! backhaul_dispatcher::queue_conformance!(my_factory()); // a test for each case, and one for random histories
//! ```

mod cancel;
mod events;
mod harness;
mod lease;
mod limits;
mod list;
mod order;
mod random;
mod redrive;
mod renew;
mod settle;
mod stats;
mod submit;
mod sweep;

use futures_util::future::BoxFuture;

pub use self::{
    harness::{Factory, Harness, START, test_settings},
    random::{Plan, random_history, random_settings},
};

/// A directed case.
#[derive(Clone, Copy)]
pub struct Case {
    /// The sentence that it holds.
    pub name: &'static str,
    /// The part of the suite that it belongs to.
    pub part: &'static str,
    run: fn(Factory) -> BoxFuture<'static, ()>,
}

impl Case {
    /// Asks a queue that `factory` makes; panics when it does not answer as the contract says.
    pub async fn run(&self, factory: Factory) {
        (self.run)(factory).await;
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The directed case of this name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn case(name: &str) -> Case {
    match CASES.iter().find(|case| case.name == name) {
        Some(case) => *case,
        None => panic!("no conformance case is named {name}"),
    }
}

/// Runs the directed cases of these parts, one after the other. Panics at the first that fails, after its name was printed.
pub async fn run_parts(factory: Factory, parts: &[&str]) {
    for case in CASES.iter().filter(|case| parts.contains(&case.part)) {
        announce(case.name);
        case.run(factory.clone()).await;
    }
}

/// The random histories that belong to the suite; see [`Plan::from_env`] for how to ask for more, or for one again.
pub async fn random_histories(factory: Factory) {
    for seed in Plan::from_env().seeds() {
        random_history(&factory, seed).await;
    }
}

#[expect(clippy::print_stderr, reason = "a test says which case it is in")]
fn announce(what: &str) {
    eprintln!("conformance: {what}");
}

/// Lists the cases once, for the table below and for the tests that [`queue_conformance`] makes.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_conformance_case {
    ([$($then:tt)*] $($context:tt)*) => {
        $($then)*! { $($context)*
            submit::a_task_that_is_due_is_pending_at_once,
            submit::a_task_for_later_waits_in_working_until_its_time,
            submit::a_time_that_has_passed_means_now,
            submit::an_exact_version_is_one_task_in_every_unfinished_state,
            submit::an_exact_version_is_recognised_until_its_dedup_window_ends,
            submit::a_finished_latest_is_a_new_run_at_once,
            submit::a_dead_task_that_is_submitted_again_starts_over,
            submit::a_cancelled_task_that_is_submitted_again_starts_over,
            submit::a_new_run_fences_every_older_lease,
            submit::latest_rides_on_a_task_that_waits_and_the_first_request_stays,
            submit::latest_during_the_copy_runs_again_afterwards,
            submit::latest_after_the_copy_began_is_not_swallowed_by_its_late_success,
            submit::latest_that_a_later_lease_serves_does_not_run_twice,
            submit::a_repeat_within_one_batch_is_one_task,
            submit::an_empty_batch_has_an_empty_answer,
            submit::a_repeat_that_wants_it_sooner_pulls_a_scheduled_task_forward,
            submit::a_repeat_does_not_shorten_a_backoff,
            submit::tenants_do_not_share_tasks,
            submit::every_field_comes_back_as_it_was_given,
            submit::an_unknown_task_is_not_found,
            submit::a_submit_wakes_whoever_waits_for_tasks,
            submit::a_promotion_wakes_whoever_waits_for_tasks,
            limits::a_full_shard_refuses_new_tasks_one_by_one,
            limits::tasks_in_every_queue_count_towards_the_shards_cap,
            limits::a_tenant_at_its_cap_is_refused_and_others_are_not,
            limits::a_full_shard_is_said_before_a_full_tenant,
            limits::dead_tasks_count_for_their_tenant_and_a_new_run_takes_their_place,
            limits::a_late_success_of_a_dead_task_frees_its_tenants_place,
            limits::a_task_that_runs_again_needs_no_room,
            limits::a_request_gets_no_more_tasks_than_it_asks_for,
            limits::a_request_ends_at_the_first_task_that_does_not_fit_its_bytes,
            limits::a_task_that_does_not_fit_holds_back_lower_bands_too,
            limits::the_first_task_is_given_whatever_its_size,
            limits::a_task_of_unknown_size_counts_as_one_part,
            limits::a_tenant_at_its_in_flight_cap_is_passed_over_until_a_lease_of_it_ends,
            limits::tasks_spread_over_shards_and_all_of_them_are_found,
            order::a_band_is_served_before_all_lower_ones,
            order::a_tenant_is_served_in_the_order_of_its_submits,
            order::tenants_take_turns,
            order::a_newcomer_waits_for_at_most_one_task_of_each_other_tenant,
            order::a_flood_delays_ten_tasks_of_another_by_ten_of_its_own,
            order::a_tenant_with_one_task_at_a_time_gets_no_more_than_its_turn,
            order::waiting_without_being_served_earns_no_burst,
            order::each_band_has_turns_of_its_own,
            order::a_promoted_task_joins_the_end_of_its_tenants_line,
            order::tasks_due_together_are_promoted_in_the_order_of_their_times,
            order::a_retried_task_overtakes_nobody,
            order::a_task_that_runs_again_joins_the_end,
            order::handed_back_tasks_return_to_their_old_places,
            order::a_hand_back_with_a_wait_joins_the_end,
            order::a_lease_that_nobody_accepted_returns_to_its_old_place,
            order::tasks_of_other_locations_never_block_the_head,
            order::a_line_keeps_its_order_across_locations,
            order::a_cancelled_task_leaves_its_line,
            order::a_duplicate_does_not_change_whose_turn_it_is,
            order::a_stale_renewal_does_not_change_whose_turn_it_is,
            lease::a_leased_task_is_working_until_its_lease_must_be_accepted,
            lease::every_lease_has_a_token_of_its_own,
            lease::a_lease_tells_how_often_the_task_has_failed,
            lease::a_repeated_request_gives_the_same_leases,
            lease::a_repeated_request_tells_the_time_that_is_left,
            lease::a_repeated_request_leaves_out_what_has_ended,
            lease::an_older_request_of_a_session_gives_nothing,
            lease::an_answer_without_leases_is_not_remembered,
            lease::sessions_count_their_requests_apart,
            lease::a_task_under_a_lease_is_nobody_elses,
            renew::the_first_renewal_accepts_the_lease,
            renew::a_lease_lasts_as_long_as_it_is_renewed_with_progress,
            renew::progress_shows_in_the_record_while_the_task_is_working,
            renew::a_copy_without_progress_loses_its_lease_when_its_processing_time_is_over,
            renew::bytes_and_steps_start_the_processing_time_anew,
            renew::a_lease_never_outlasts_the_processing_time,
            renew::a_renewal_sent_twice_changes_nothing_more,
            renew::a_lease_that_ran_out_unseen_can_still_be_renewed,
            renew::only_the_lease_at_work_can_be_renewed,
            renew::renewals_are_answered_one_by_one_in_order,
            renew::a_lease_moves_to_the_session_that_renews_it,
            renew::an_upload_is_kept_for_the_next_attempt_until_the_copy_succeeds,
            renew::progress_forgives_earlier_returns,
            settle::success_finishes_the_task_and_keeps_the_receipt_as_it_is,
            settle::an_outcome_reported_twice_counts_once,
            settle::a_lease_cannot_report_two_different_things,
            settle::a_late_success_of_the_newest_lease_counts_in_delay,
            settle::a_late_success_of_the_newest_lease_counts_in_pending,
            settle::a_late_success_of_a_lease_that_was_never_accepted_counts,
            settle::a_late_success_of_the_newest_lease_counts_in_dead,
            settle::a_stale_token_cannot_complete,
            settle::a_failure_after_the_lease_ran_out_counts_for_nothing,
            settle::a_foreign_token_is_fenced_and_an_unknown_task_is_gone,
            settle::settlements_are_answered_one_by_one_in_order,
            settle::a_failed_attempt_is_counted_and_backs_off_longer_each_time,
            settle::a_task_is_dead_when_its_attempts_are_used_up,
            settle::a_permanent_failure_is_dead_at_once,
            settle::a_source_that_is_gone_cancels_the_task,
            settle::throttling_costs_no_attempt_and_waits_as_long_as_the_store_asked,
            settle::coming_back_too_often_without_progress_costs_attempts,
            settle::a_hand_back_costs_nothing_and_waits_as_long_as_asked,
            settle::a_task_that_was_never_sent_comes_back_at_no_cost_however_often,
            settle::a_hand_back_too_many_backs_off_by_its_spread,
            settle::a_report_on_a_lease_that_was_never_accepted_counts,
            settle::a_copy_that_stopped_without_a_cancel_is_handed_back,
            settle::a_report_that_began_a_new_run_may_be_repeated,
            settle::the_last_failed_attempt_does_not_swallow_a_newer_request,
            settle::a_retry_serves_a_newer_request_by_itself,
            settle::a_new_run_forgets_which_report_began_the_one_before,
            cancel::a_waiting_task_is_cancelled_at_once,
            cancel::a_running_copy_is_asked_to_stop_and_cancelled_when_it_has,
            cancel::a_lease_not_yet_accepted_is_asked_to_stop_too,
            cancel::every_end_but_success_of_a_cancelled_copy_is_a_cancellation,
            cancel::a_copy_that_succeeds_before_it_could_stop_is_done,
            cancel::a_finished_task_is_too_late_to_cancel,
            cancel::reports_on_a_cancelled_task_are_told_so,
            cancel::a_cancel_withdraws_the_requests_before_it,
            cancel::a_request_after_the_cancel_runs_again,
            cancel::a_request_after_the_cancel_survives_a_vanished_worker,
            cancel::a_renewal_of_a_cancelled_copy_still_moves_it_to_its_session,
            sweep::a_vanished_worker_is_a_crash_and_no_attempt,
            sweep::too_many_vanished_workers_quarantine_the_task,
            sweep::quarantine_does_not_swallow_a_newer_request,
            sweep::a_lease_that_nobody_accepted_costs_only_a_return,
            sweep::leases_that_nobody_ever_accepts_use_up_the_task_in_the_end,
            sweep::sweeps_closer_than_their_interval_do_nothing,
            sweep::a_queue_that_was_never_swept_grants_an_amnesty,
            sweep::after_an_outage_every_worker_has_one_lease_of_time_to_come_back,
            sweep::a_gap_just_short_of_an_outage_grants_nothing,
            sweep::a_delayed_task_is_due_at_its_time_and_not_before,
            sweep::a_burst_of_due_tasks_is_promoted_in_bounded_passes_and_delays_no_expiry,
            sweep::a_sweep_says_when_the_next_task_is_due,
            sweep::finished_tasks_stay_for_their_retention_and_then_go,
            sweep::a_done_task_stays_as_long_as_it_must_be_recognised,
            sweep::a_reaped_task_is_gone_for_its_worker_and_new_for_its_tenant,
            sweep::a_new_run_is_not_reaped_for_the_end_of_the_old_one,
            sweep::depths_count_every_state,
            sweep::a_queue_in_order_says_so,
            list::a_listing_shows_only_the_tenants_own_tasks,
            list::a_listing_shows_whole_records,
            list::filters_are_all_kept_to,
            list::states_can_be_chosen,
            list::pages_show_every_task_once_and_the_newest_first,
            list::tasks_that_come_and_go_disturb_no_others_on_later_pages,
            list::a_cursor_of_nobody_is_refused,
            list::dead_tasks_are_found_by_bucket_reason_and_the_time_of_their_end,
            redrive::a_dead_task_runs_again_as_a_new_run_of_the_same_spec,
            redrive::a_repeated_requeue_begins_no_second_run,
            redrive::a_task_that_was_submitted_again_meanwhile_is_left_alone,
            redrive::only_dead_tasks_are_requeued,
            redrive::a_late_success_of_the_run_that_died_is_fenced_after_a_requeue,
            redrive::a_requeued_task_waits_behind_what_waits_already,
            redrive::a_requeue_needs_room_in_the_shard_and_none_in_the_tenants_count,
            redrive::requeues_are_answered_one_by_one_in_order,
            redrive::a_requeue_wakes_whoever_waits_for_tasks,
            redrive::a_task_that_dies_again_can_be_requeued_again,
            stats::an_empty_queue_has_nothing_of_any_age,
            stats::every_queue_tells_how_much_it_has_and_since_when,
            stats::priorities_are_told_apart,
            stats::a_tenant_sees_its_own_share,
            stats::the_tenants_with_most_come_first_and_what_is_left_out_is_said,
            stats::the_age_of_pending_tasks_is_that_of_the_first_in_line,
            events::every_move_of_a_task_is_told_in_order,
            events::a_reader_goes_on_where_another_has_stopped,
            events::what_nobody_read_in_time_is_told_as_missed,
            events::more_changes_than_are_kept_are_told_as_missed,
            events::a_cursor_of_nobody_is_refused_by_the_log,
            events::many_changes_are_read_in_bounded_pieces,
            sweep::too_many_bytes_of_finished_tasks_go_oldest_first_and_dead_ones_stay,
        }
    };
}

/// Makes a module `conformance` with a test for each directed case and one for the random histories, all on queues made by
/// `$factory`, an expression that gives a [`Factory`].
#[macro_export]
macro_rules! queue_conformance {
    ($factory:expr) => {
        mod conformance {
            use super::*;
            $crate::for_each_conformance_case! { [$crate::__conformance_tests] ($factory) }

            #[tokio::test]
            async fn random_histories_are_answered_like_the_reference_queue_answers() {
                $crate::queue::conformance::random_histories($factory).await;
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($factory:tt $($module:ident::$name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::queue::conformance::case(stringify!($name)).run($factory).await;
            }
        )*
    };
}

macro_rules! table {
    ($($module:ident::$name:ident,)*) => {
        /// Every directed case.
        pub const CASES: &[Case] =
            &[$(Case { name: stringify!($name), part: stringify!($module), run: |factory| Box::pin($module::$name(factory)) },)*];
    };
}
for_each_conformance_case! { [table] }

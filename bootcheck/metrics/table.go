package metrics

import "github.com/tope-ota/ota/bootcheck"

// A metric is one family of the file.
type metric struct {
	name, kind, help string
	samples          func(f *facts, emit emit)
}

// emit writes one sample. labels are names and values in turn.
type emit func(value float64, labels ...string)

const (
	gauge   = "gauge"
	counter = "counter"
)

// table is THE list of all metrics, in the order of the file. docs/METRICS.md has
// the same list, and a test that it has.
//
// Of an enumeration (a phase, a cause) every value is always there, with 0 for the
// ones that do not hold: a rate or an increase needs the sample before the first
// event. Labels whose values come from outside (versions, names of checks) stand
// only in metrics that say _info.
var table = []metric{
	{"ota_version_info", gauge, "Versions that the device runs or may roll back to, by what they are to it: current, previous, factory, or next (from the next boot on). Always 1.",
		func(f *facts, emit emit) {
			links := f.record.Links()
			if next := f.record.Next; next != nil {
				links = append(links, bootcheck.Link{Name: "next", Ref: &next.Ref})
			}
			for _, l := range links {
				if l.Ref != nil {
					emit(1, "role", l.Name, "version", l.Ref.Version)
				}
			}
		}},
	{"ota_release", gauge, "Release counter of the current version; 0 if that was not counted.",
		one(func(f *facts) float64 { return float64(f.release) })},
	{"ota_phase", gauge, "1 for the phase in which the device is. None is 1 before the first install.",
		func(f *facts, emit emit) {
			enum(emit, "phase", string(f.record.Phase), string(bootcheck.PhaseConfirmed), string(bootcheck.PhaseTrial),
				string(bootcheck.PhaseFallback), string(bootcheck.PhaseFactory), string(bootcheck.PhaseHold))
		}},
	{"ota_hold", gauge, "1 for the reason why the device is on hold and waits for an operator or another version.",
		func(f *facts, emit emit) {
			enum(emit, "reason", f.record.HoldReason, bootcheck.HoldExhausted, bootcheck.HoldEnvironment)
		}},
	{"ota_hard_boots", gauge, "Boots in a row, up to now, before each of which a confirmed version ended in a watchdog reset or a kernel panic, and none of which was healthy.",
		one(func(f *facts) float64 { return float64(len(f.record.HardStreak)) })},
	{"ota_last_boot", gauge, "1 for how the boot before this one ended: clean, unclean (the power went), hard (watchdog reset, kernel panic). unknown: nothing was on trial, so no mark of a shutdown was left.",
		func(f *facts, emit emit) {
			if f.lastBoot != "" {
				enum(emit, "class", f.lastBoot, "clean", "unclean", "hard", BootUnknown)
			}
		}},
	{"ota_rollbacks_total", counter, "Rollbacks, by cause and by what the device rolled back to. none: there was nothing, and the device is on hold.",
		func(f *facts, emit emit) {
			causes := []bootcheck.Cause{bootcheck.CauseHealth, bootcheck.CauseCrash, bootcheck.CauseBoots,
				bootcheck.CauseHard, bootcheck.CauseDamaged, bootcheck.CauseRevoked, bootcheck.CauseOperator,
				bootcheck.CauseUnrecorded}
			for _, cause := range causes {
				for _, level := range []string{bootcheck.LevelPrevious, bootcheck.LevelFactory, bootcheck.LevelNone} {
					emit(float64(f.record.Rollbacks[cause][level]), "cause", string(cause), "level", level)
				}
			}
		}},
	{"ota_last_rollback_info", gauge, "The last rollback: the version that was left, for which, why, and the health check that failed (empty: none did). Always 1; not there if there never was one.",
		func(f *facts, emit emit) {
			if l := f.record.LastRollback; l != nil {
				emit(1, "from", l.From, "to", l.To, "cause", string(l.Cause), "level", l.Level, "check", l.Check)
			}
		}},
	{"ota_blocked_info", gauge, "Versions that failed here and are not run again unless an operator says so, with the cause. Always 1.",
		func(f *facts, emit emit) {
			for _, b := range f.record.Blocked {
				emit(1, "version", b.Version, "cause", b.Reason)
			}
		}},
	{"ota_record_damaged", gauge, "1 if the record of the current version, or a link of the store, was not what it should be, so that the device uses an older one.",
		one(func(f *facts) float64 { return truth(f.damaged) })},
	{"ota_factory_verified", gauge, "1 if the last check of every byte of the factory version in this boot found it intact, 0 if it is damaged. Not there: not checked yet, or there is no factory version.",
		func(f *facts, emit emit) {
			if f.factory != nil {
				emit(truth(*f.factory))
			}
		}},
	{"ota_store_free_bytes", gauge, "Room on the disk of the store when this file was written.",
		one(func(f *facts) float64 { return float64(f.free.Bytes) })},
	{"ota_store_free_inodes", gauge, "Inodes that were free on the disk of the store when this file was written. Not there: the file system makes them as it needs them.",
		func(f *facts, emit emit) {
			if !f.free.NoInodes {
				emit(float64(f.free.Inodes))
			}
		}},
	{"ota_store_reserve_bytes", gauge, "Room on the disk of the store that an install leaves free (reserve in the configuration).",
		one(func(f *facts) float64 { return float64(f.cfg.Reserve) })},

	{"ota_installs_total", counter, "Installs and activations that ended, by result: success, or the code of the error as device-api is told it.",
		func(f *facts, emit emit) {
			for _, result := range results {
				emit(float64(f.installs.Results[result]), "result", result)
			}
		}},
	{"ota_downloaded_bytes_total", counter, "Bytes that installs downloaded, also those that were thrown away.",
		one(func(f *facts) float64 { return float64(f.installs.Downloaded) })},
	{"ota_last_install_info", gauge, "The last install or activation that ended: the version (empty: it did not come to know it) and the result. Always 1; not there if there never was one.",
		last(func(l *Install, emit emit) { emit(1, "version", l.Version, "result", l.Result) })},
	{"ota_last_install_exit_code", gauge, "Exit code of the last install or activation: 0 done, 3 busy, 4 refused, 5 damaged, 6 download failed, 7 no space, 8 rolled back, 9 on hold, 10 unknown, else failed.",
		last(func(l *Install, emit emit) { emit(float64(l.Exit)) })},
	{"ota_last_install_timestamp_seconds", gauge, "When the last install or activation ended, as Unix time by the device's clock.",
		last(func(l *Install, emit emit) { emit(float64(l.Ended)) })},
	{"ota_last_install_duration_seconds", gauge, "How long the last install or activation was in each stage. The bundle is unpacked while it is downloaded; judging is the trial.",
		last(func(l *Install, emit emit) {
			for _, stage := range stages {
				emit(l.Seconds[stage], "stage", stage)
			}
		})},
	{"ota_last_install_resumes", gauge, "How often the download of the last install continued from where it had broken off.",
		last(func(l *Install, emit emit) { emit(float64(l.Resumes)) })},

	{"ota_follow_failed", gauge, "1 if the server of [follow] could not be asked the last time, 0 if it answered. Not there: it was not followed in this boot.",
		following(func(w *bootcheck.Following, emit emit) { emit(truth(w.Error != "")) })},
	{"ota_follow_undelivered", gauge, "Reports that the server of [follow] does not have yet.",
		following(func(w *bootcheck.Following, emit emit) { emit(float64(w.Undelivered)) })},
	{"ota_follow_asked_timestamp_seconds", gauge, "When the server of [follow] asked for the version that the device has not tried yet or that is on trial, as Unix time by the device's clock. Not there: it asks for none.",
		following(func(w *bootcheck.Following, emit emit) {
			if w.Since != nil {
				emit(float64(w.Since.Unix()))
			}
		})},
	{"ota_follow_unchanged_days", gauge, "Days of power since the channel of [follow] changed last. Not there: no channel was read in this boot.",
		following(func(w *bootcheck.Following, emit emit) {
			if w.UnchangedDays != nil {
				emit(float64(*w.UnchangedDays))
			}
		})},
}

// one is a metric that always has one sample, without labels.
func one(value func(*facts) float64) func(*facts, emit) {
	return func(f *facts, emit emit) { emit(value(f)) }
}

// last is a metric about the last install; without one there is no sample.
func last(samples func(*Install, emit)) func(*facts, emit) {
	return func(f *facts, emit emit) {
		if f.installs.Last != nil {
			samples(f.installs.Last, emit)
		}
	}
}

// following is a metric about the follower; without a follower there is no sample.
func following(samples func(*bootcheck.Following, emit)) func(*facts, emit) {
	return func(f *facts, emit emit) {
		if f.follow != nil {
			samples(f.follow, emit)
		}
	}
}

// enum writes a sample for each of values, and for is if a newer program made it.
func enum(emit emit, label, is string, values ...string) {
	for _, v := range values {
		emit(truth(v == is), label, v)
		if v == is {
			is = ""
		}
	}
	if is != "" {
		emit(1, label, is)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

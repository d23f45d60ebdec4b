//! From the timeline of a service to the stretches and moments of a chart.

use std::time::{SystemTime, UNIX_EPOCH};

use mvedsua_tests::mvedsua::TimelineEntry;

use crate::chart::{Band, Moment};

/// Seconds from the start of the load to an event.
pub fn seconds(event: &TimelineEntry, origin: SystemTime) -> f64 {
    let origin = origin.duration_since(UNIX_EPOCH).unwrap_or_default();
    event.unix_ms as f64 / 1000.0 - origin.as_secs_f64()
}

/// From the timeline to stretches of one stage each; before the attach it is `native`.
pub fn bands(events: &[(f64, &TimelineEntry)], end: f64) -> Vec<Band> {
    let mut bands = vec![Band {
        from: 0.0,
        to: end,
        stage: "native".into(),
    }];
    for (at, event) in events {
        let last = bands.last_mut().expect("never empty");
        if last.stage != event.stage {
            last.to = *at;
            bands.push(Band {
                from: *at,
                to: end,
                stage: event.stage.clone(),
            });
        }
    }
    bands
}

/// The moments that the paper names, and the end of an update by rollback: back to `single-leader` with
/// no `t6`.
pub fn moments(events: &[(f64, &TimelineEntry)]) -> Vec<Moment> {
    let mut stage = "single-leader";
    let mut moments = Vec::new();
    for (at, event) in events {
        let name = match &event.mark {
            Some(mark) => Some(mark.clone()),
            None if event.stage == "single-leader" && stage != "single-leader" => {
                Some("rolled back".to_owned())
            }
            None => None,
        };
        moments.extend(name.map(|name| Moment { at: *at, name }));
        stage = &event.stage;
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mark: Option<&str>, stage: &str) -> TimelineEntry {
        TimelineEntry {
            unix_ms: 0,
            mark: mark.map(str::to_owned),
            stage: stage.into(),
            what: String::new(),
        }
    }

    #[test]
    fn stages_become_bands_without_gaps_and_a_rollback_gets_a_name() {
        let entries = [
            (1.0, entry(None, "single-leader")),
            (2.0, entry(Some("t1"), "updating")),
            (2.5, entry(Some("t2"), "updating")),
            (4.0, entry(None, "single-leader")),
        ];
        let events: Vec<_> = entries.iter().map(|(at, event)| (*at, event)).collect();
        let bands = bands(&events, 9.0);
        let edges: Vec<_> = bands
            .iter()
            .map(|band| (band.from, band.to, band.stage.as_str()))
            .collect();
        let expected = [
            (0.0, 1.0, "native"),
            (1.0, 2.0, "single-leader"),
            (2.0, 4.0, "updating"),
            (4.0, 9.0, "single-leader"),
        ];
        assert_eq!(edges, expected);
        let moments: Vec<_> = moments(&events).into_iter().map(|m| m.name).collect();
        assert_eq!(moments, ["t1", "t2", "rolled back"]);
    }
}

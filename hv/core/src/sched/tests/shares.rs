//! Shares follow weights, caps hold.

use std::vec::Vec;

use super::sim::*;
use super::*;

fn near(got: &[f64], wanted: &[f64], within: f64) {
    for (g, w) in got.iter().zip(wanted) {
        assert!((g - w).abs() <= within, "shares {got:.3?}, wanted {wanted:.3?} within {within}");
    }
}

/// Runs spinners of these weights and compares their shares with `wanted`.
fn spinners(cpus: u32, weights: &[u16], wanted: &[f64], within: f64) {
    let mut sim = Sim::new(cpus, 1);
    let all: Vec<Handle> = weights.iter().map(|w| sim.spin(*w)).collect();
    sim.run(S / 2);
    let mark = sim.mark();
    sim.run(20 * S);
    near(&sim.shares_since(&mark, &all), wanted, within);
}

#[test]
fn equal_weights_share_one_cpu_equally() {
    spinners(1, &[256; 4], &[0.25; 4], 0.005);
}

#[test]
fn weights_divide_one_cpu() {
    spinners(1, &[256, 512, 1024], &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0], 0.01);
    spinners(1, &[1, 99], &[0.01, 0.99], 0.01);
    spinners(1, &[65535, 65535, 256], &[0.499, 0.499, 0.002], 0.01);
}

#[test]
fn three_equal_spinners_share_two_cpus() {
    spinners(2, &[256; 3], &[1.0 / 3.0; 3], 0.01);
    spinners(4, &[256; 7], &[1.0 / 7.0; 7], 0.01);
    spinners(4, &[256; 13], &[1.0 / 13.0; 13], 0.01);
}

#[test]
fn weights_divide_two_cpus() {
    // 2:1:1 is just what two CPUs can give.
    spinners(2, &[512, 256, 256], &[0.5, 0.25, 0.25], 0.02);
    spinners(2, &[300, 256, 256, 100], &[0.329, 0.281, 0.281, 0.11], 0.02);
    spinners(4, &[512, 512, 256, 256, 256, 256, 256, 256], &[0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 0.02);
}

/// A vcpu can't use more than one CPU however heavy: the others share the rest by weight.
#[test]
fn a_weight_no_cpu_can_serve_leaves_the_rest_in_proportion() {
    spinners(2, &[65535, 256, 768], &[0.5, 0.125, 0.375], 0.02);
}

/// A vcpu alone on its CPU for long gets far ahead (or, heavy, far behind) of others in virtual
/// time. When others come, nobody may starve or own the CPU while that is paid back.
#[test]
fn time_alone_is_neither_a_debt_nor_a_credit() {
    let mut sim = Sim::new(2, 3);
    let mut all = Vec::from([sim.spin(256)]);
    sim.run(100 * S);
    all.push(sim.spin(1024));
    sim.run(100 * S);
    all.extend([sim.spin(1024), sim.spin(1024), sim.spin(256)]);
    sim.run(S);
    let mark = sim.mark();
    sim.run(5 * S);
    let w = 256.0 + 3.0 * 1024.0 + 256.0;
    let wanted = [256.0 / w, 1024.0 / w, 1024.0 / w, 1024.0 / w, 256.0 / w];
    near(&sim.shares_since(&mark, &all), &wanted, 0.03);
}

#[test]
fn a_cap_holds_on_an_idle_machine_and_a_busy_one() {
    for others in [0, 3] {
        for cap in [5, 25, 60] {
            let mut sim = Sim::new(2, 7);
            let capped = sim.add(Work::Spin, Params { weight: 1000, cap }, CpuSet::ALL);
            for _ in 0..others {
                sim.spin(100);
            }
            sim.run(10 * S);
            let got = sim.tasks[&capped].ran as f64 / (10 * S) as f64;
            let most = f64::from(cap) / 100.0;
            assert!(got <= most + 0.005, "cap {cap}: {got}");
            assert!(got >= most - 0.02, "cap {cap} with {others} others: only {got}");
        }
    }
}

#[test]
fn a_cap_can_be_lifted_and_set_while_it_runs() {
    let mut sim = Sim::new(1, 7);
    let v = sim.spin(256);
    sim.run(S);
    sim.set_params(v, Params { weight: 256, cap: 20 });
    sim.run(S);
    let mark = sim.tasks[&v].ran;
    sim.run(5 * S);
    assert!((sim.tasks[&v].ran - mark).abs_diff(S) < S / 20);
    sim.set_params(v, Params::default());
    sim.run(S / 10); // it may still be parked
    let mark = sim.tasks[&v].ran;
    sim.run(S);
    assert_eq!(sim.tasks[&v].ran - mark, S);
}

/// Sleeping just before each charge must not earn more than the weight says: the classic theft
/// from tick-sampling schedulers.
#[test]
fn sleeping_often_steals_no_time() {
    let mut sim = Sim::new(1, 11);
    let spinner = sim.spin(256);
    let thief = sim.add(Work::Bursts { burst: 4 * MS, gap: 100 * US }, Params::default(), CpuSet::ALL);
    sim.run(S);
    let mark = sim.mark();
    sim.run(20 * S);
    let share = sim.shares_since(&mark, &[spinner, thief])[1];
    assert!(share < 0.53, "the thief got {share}");
}

#[test]
fn affinity_keeps_each_to_its_cpus() {
    let mut sim = Sim::new(2, 5);
    let pinned: Vec<Handle> =
        (0..3).map(|_| sim.add(Work::Spin, Params::default(), CpuSet::one(0))).collect();
    let free = sim.spin(256);
    sim.run(10 * S);
    near(&sim.shares_since(&Default::default(), &pinned), &[1.0 / 3.0; 3], 0.01);
    assert!(sim.tasks[&free].ran > 9 * S, "the free one has CPU 1");
}

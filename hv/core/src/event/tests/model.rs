//! Random operations over three domains, compared after each with a model that keeps ports in
//! plain maps and does what event_channel.h says.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;

const MAX_PORT: u32 = 70; // crosses the first bucket's end

#[derive(Clone, Copy, Debug)]
enum Op {
    Alloc { dom: usize, remote: u16 },
    Bind { dom: usize, peer: usize, port: u32 },
    Virq { dom: usize, virq: u32, vcpu: u32 },
    Ipi { dom: usize, vcpu: u32 },
    Pirq { dom: usize, pirq: u32 },
    Close { dom: usize, port: u32 },
    Vcpu { dom: usize, port: u32, vcpu: u32 },
    Send { dom: usize, port: u32 },
    Mask { dom: usize, port: u32 },
    Unmask { dom: usize, port: u32 },
    Handle { dom: usize },
    Fill { dom: usize },
    Reset { dom: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let dom = 0..3usize;
    let port = prop_oneof![8 => 0..12u32, 1 => 60..75u32, 1 => any::<u32>()];
    (dom.clone(), dom, port, 0..3u32, 0..26u32, 0..31u32).prop_map(|(dom, peer, port, vcpu, virq, kind)| {
        match kind {
            0..6 => Op::Alloc { dom, remote: peer as u16 },
            6..12 => Op::Bind { dom, peer, port },
            12..14 => Op::Virq { dom, virq, vcpu },
            14 => Op::Ipi { dom, vcpu },
            15 => Op::Pirq { dom, pirq: vcpu * 2 },
            16..19 => Op::Close { dom, port },
            19..21 => Op::Vcpu { dom, port, vcpu },
            21..26 => Op::Send { dom, port },
            26 => Op::Mask { dom, port: port % 4096 },
            27 => Op::Unmask { dom, port },
            28 => Op::Handle { dom },
            29 => Op::Fill { dom },
            _ => Op::Reset { dom },
        }
    })
}

/// The naive oracle: a domain's open ports, its pending and masked sets.
#[derive(Default)]
struct Model {
    open: [BTreeMap<u32, Channel>; 3],
    known: [u32; 3], // ports below this exist in the table
    pending: [BTreeMap<u32, ()>; 3],
    masked: [BTreeMap<u32, ()>; 3],
}

impl Model {
    fn free(&mut self, dom: usize) -> Result<u32, Errno> {
        let port = (1..=MAX_PORT).find(|p| !self.open[dom].contains_key(p)).ok_or(Errno::ENOSPC)?;
        self.known[dom] = self.known[dom].max(if port < 64 { 64 } else { 128 });
        Ok(port)
    }

    fn add(&mut self, dom: usize, state: State, vcpu: u32) -> Result<u32, Errno> {
        let port = self.free(dom)?;
        self.open[dom].insert(port, Channel { state, vcpu });
        Ok(port)
    }

    fn bind(&mut self, dom: usize, peer: usize, port: u32) -> Result<u32, Errno> {
        let local = self.free(dom)?;
        match self.open[peer].get_mut(&port) {
            Some(c) if c.state == (State::Unbound { remote: DomId(dom as u16) }) => {
                c.state = State::Interdomain { remote: DomId(dom as u16), port: Port(local) };
            }
            _ => return Err(Errno::EINVAL),
        }
        let state = State::Interdomain { remote: DomId(peer as u16), port: Port(port) };
        self.open[dom].insert(local, Channel { state, vcpu: 0 });
        self.pending[dom].insert(local, ());
        Ok(local)
    }

    fn bound(&self, dom: usize, state: State, vcpu: Option<u32>) -> bool {
        self.open[dom].values().any(|c| c.state == state && vcpu.is_none_or(|v| c.vcpu == v))
    }

    fn virq(&mut self, dom: usize, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        let global = ![0, 1, 7, 13].contains(&virq);
        if virq > 23 || global && vcpu > 0 {
            Err(Errno::EINVAL)
        } else if vcpu > 1 {
            Err(Errno::ENOENT)
        } else if self.bound(dom, State::Virq(virq), (!global).then_some(vcpu)) {
            Err(Errno::EEXIST)
        } else {
            self.add(dom, State::Virq(virq), vcpu)
        }
    }

    fn close(&mut self, dom: usize, port: u32) -> Result<(), Errno> {
        let gone = self.open[dom].remove(&port).ok_or(Errno::EINVAL)?;
        if let State::Interdomain { remote, port } = gone.state {
            let peer = self.open[remote.0 as usize].get_mut(&port.0).unwrap();
            peer.state = State::Unbound { remote: DomId(dom as u16) };
        }
        self.pending[dom].remove(&port);
        Ok(())
    }

    fn vcpu(&mut self, dom: usize, port: u32, vcpu: u32) -> Result<(), Errno> {
        if vcpu > 1 {
            return Err(Errno::ENOENT);
        }
        let c = self.open[dom].get_mut(&port).ok_or(Errno::EINVAL)?;
        if matches!(c.state, State::Ipi | State::Virq(0 | 1 | 7 | 13)) {
            return Err(Errno::EINVAL);
        }
        c.vcpu = vcpu;
        Ok(())
    }

    fn send(&mut self, dom: usize, port: u32) -> Result<(), Errno> {
        match self.open[dom].get(&port).map(|c| c.state) {
            Some(State::Interdomain { remote, port }) => {
                self.pending[remote.0 as usize].insert(port.0, ());
            }
            Some(State::Ipi) => {
                self.pending[dom].insert(port, ());
            }
            Some(State::Unbound { .. }) => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

fn close(doms: &mut [Dom; 3], dom: usize, port: Port) -> Result<Closed, Errno> {
    match doms[dom].ports.peer_of(port).filter(|p| p.0 as usize != dom) {
        None => doms[dom].side().close(port, None),
        Some(peer) => {
            let [a, b] = doms.get_disjoint_mut([dom, peer.0 as usize]).unwrap();
            a.side().close(port, Some(&mut b.side()))
        }
    }
}

fn apply(op: Op, doms: &mut [Dom; 3], model: &mut Model) {
    match op {
        Op::Alloc { dom, remote } => assert_eq!(
            doms[dom].side().alloc_unbound(DomId(remote)).map(|p| p.0),
            model.add(dom, State::Unbound { remote: DomId(remote) }, 0)
        ),
        Op::Bind { dom, peer, port } => {
            let got = if dom == peer {
                doms[dom].side().bind_interdomain(None, Port(port))
            } else {
                let [a, b] = doms.get_disjoint_mut([dom, peer]).unwrap();
                a.side().bind_interdomain(Some(&mut b.side()), Port(port))
            };
            assert_eq!(got.map(|(p, _)| p.0), model.bind(dom, peer, port));
        }
        Op::Virq { dom, virq, vcpu } => {
            assert_eq!(doms[dom].side().bind_virq(virq, vcpu).map(|p| p.0), model.virq(dom, virq, vcpu));
        }
        Op::Ipi { dom, vcpu } => assert_eq!(
            doms[dom].side().bind_ipi(vcpu).map(|p| p.0),
            if vcpu > 1 { Err(Errno::ENOENT) } else { model.add(dom, State::Ipi, vcpu) }
        ),
        Op::Pirq { dom, pirq } => assert_eq!(
            doms[dom].side().bind_pirq(pirq, true, || Ok(())).map(|p| p.0),
            if pirq > 3 {
                Err(Errno::EINVAL)
            } else if model.bound(dom, State::Pirq(pirq), None) {
                Err(Errno::EEXIST)
            } else {
                model.add(dom, State::Pirq(pirq), 0)
            }
        ),
        Op::Close { dom, port } => {
            assert_eq!(close(doms, dom, Port(port)).map(|_| ()), model.close(dom, port));
        }
        Op::Vcpu { dom, port, vcpu } => {
            assert_eq!(doms[dom].side().bind_vcpu(Port(port), vcpu).map(|_| ()), model.vcpu(dom, port, vcpu))
        }
        Op::Send { dom, port } => {
            let to = doms[dom].ports.peer_of(Port(port)).map_or(dom, |p| p.0 as usize);
            assert_eq!(send(&doms[dom], Port(port), &doms[to]).map(|_| ()), model.send(dom, port));
        }
        Op::Mask { dom, port } => {
            doms[dom].bits.mask(Port(port));
            model.masked[dom].insert(port, ());
        }
        Op::Unmask { dom, port } => {
            let known = port < model.known[dom].max(64);
            let got = doms[dom].ports.unmask(&doms[dom].bits, Port(port)).map(|_| ());
            assert_eq!(got, if known { Ok(()) } else { Err(Errno::EINVAL) });
            if known {
                model.masked[dom].remove(&port);
            }
        }
        Op::Handle { dom } => {
            let mut found: Vec<u32> = (0..2).flat_map(|v| doms[dom].bits.take_events(v)).collect();
            found.sort();
            let masked = &model.masked[dom];
            let ready: Vec<u32> =
                model.pending[dom].keys().filter(|p| !masked.contains_key(p)).copied().collect();
            assert_eq!(found, ready, "the upcall finds exactly what is pending and not masked");
            model.pending[dom].retain(|p, _| masked.contains_key(p));
        }
        Op::Fill { dom } => {
            while model.add(dom, State::Ipi, 1).is_ok() {
                doms[dom].side().bind_ipi(1).unwrap();
            }
            assert_eq!(doms[dom].side().bind_ipi(1), Err(Errno::ENOSPC));
        }
        Op::Reset { dom } => {
            while let Some((port, _)) = doms[dom].side().next_to_close() {
                let _ = close(doms, dom, port).unwrap();
                model.close(dom, port.0).unwrap();
            }
            assert!(model.open[dom].is_empty());
        }
    }
}

fn check(doms: &[Dom; 3], model: &Model) {
    for (dom, open) in doms.iter().zip(&model.open) {
        assert_eq!(dom.ctl.in_use() as usize, open.len());
        for port in 1..=MAX_PORT {
            let state = dom.ports.channel(Port(port)).unwrap_or(Channel { state: State::Free, vcpu: 0 });
            let expected = open.get(&port).copied().unwrap_or(Channel { state: State::Free, vcpu: 0 });
            assert_eq!(state, expected, "port {port} of {:?}", dom.id);
        }
        for (port, channel) in open {
            if let State::Virq(virq) = channel.state {
                let vcpu = if virq::is_global(virq) { 0 } else { channel.vcpu };
                assert_eq!(dom.ports.virqs.get(vcpu, virq), Some(Port(*port)));
            }
        }
    }
    for (dom, pending) in doms.iter().zip(&model.pending) {
        for port in 0..128 {
            assert_eq!(dom.bits.is_pending(port), pending.contains_key(&port));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn three_domains_agree_with_the_model(ops in prop::collection::vec(op(), 1..200)) {
        let mut doms = [0, 1, 2].map(|id| Dom::new(id, MAX_PORT));
        let mut model = Model::default();
        for op in ops {
            apply(op, &mut doms, &mut model);
            check(&doms, &model);
        }
    }
}

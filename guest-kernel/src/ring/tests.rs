use super::*;
use crate::fake::{Page, Rng};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec::Vec;

struct Numbers;

impl RingKind for Numbers {
    type Request = [u32; 28];
    type Response = [u32; 4];
}

fn request(number: u32) -> [u32; 28] {
    [number; 28]
}

fn response(number: u32) -> [u32; 4] {
    [number; 4]
}

fn pair() -> (FrontRing<Numbers, Page>, BackRing<Numbers, Page>, Page) {
    let page = Page::new();
    let front = FrontRing::new(page.clone());
    let back = BackRing::attach(page.clone()).expect("a fresh ring");
    (front, back, page)
}

proptest! {
    /// Against two queues: everything sent arrives once, whole, in order; and a side that has
    /// armed is notified of the next message.
    #[test]
    fn behaves_like_two_queues(seed: u64, steps in 1usize..2000) {
        let (mut front, mut back, _) = pair();
        let mut rng = Rng(seed);
        let (mut sent, mut taken) = (0u32, 0u32);
        let (mut requests, mut responses) = (VecDeque::new(), VecDeque::new());
        let (mut hidden_requests, mut hidden_responses) = (Vec::new(), Vec::new());
        let mut working = VecDeque::new();
        let (mut front_sleeps, mut back_sleeps) = (true, true);
        for _ in 0..steps {
            match rng.below(6) {
                0 => match front.push(&request(sent)) {
                    Some(_) => { hidden_requests.push(sent); sent += 1; }
                    None => prop_assert_eq!(sent - taken, front.size()),
                },
                1 => {
                    let any = !hidden_requests.is_empty();
                    requests.extend(hidden_requests.drain(..));
                    let notify = front.publish();
                    prop_assert!(notify || !(back_sleeps && any), "the backend sleeps on");
                    back_sleeps &= !notify;
                }
                2 => match back.pop() {
                    Ok(Some(got)) => {
                        prop_assert_eq!(got, request(requests.pop_front().expect("invented")));
                        working.push_back(got[0]);
                    }
                    Ok(None) => {
                        prop_assert!(requests.is_empty());
                        prop_assert_eq!(back.arm(), Ok(false));
                        back_sleeps = true;
                    }
                    Err(error) => prop_assert!(false, "{error:?}"),
                },
                3 => if let Some(number) = working.pop_front() {
                    prop_assert!(back.push(&response(number)).is_ok());
                    hidden_responses.push(number);
                } else {
                    prop_assert!(back.push(&response(0)).is_err(), "an answer to nothing");
                },
                4 => {
                    let any = !hidden_responses.is_empty();
                    responses.extend(hidden_responses.drain(..));
                    let notify = back.publish();
                    prop_assert!(notify || !(front_sleeps && any), "the frontend sleeps on");
                    front_sleeps &= !notify;
                }
                _ => match front.pop() {
                    Ok(Some((_, got))) => {
                        prop_assert_eq!(got, response(responses.pop_front().expect("invented")));
                        taken += 1;
                    }
                    Ok(None) => {
                        prop_assert!(responses.is_empty());
                        prop_assert_eq!(front.arm(), Ok(false));
                        front_sleeps = true;
                    }
                    Err(error) => prop_assert!(false, "{error:?}"),
                },
            }
        }
    }

    /// XSA-155 and its kin: a peer that writes the shared indices at any time. Neither side ever
    /// takes more messages than there are slots to hold them, and each stops or carries on.
    #[test]
    fn wild_indices_never_yield_more_than_a_ring(seed: u64, wild: Vec<(u8, u32)>) {
        let (mut front, mut back, page) = pair();
        let mut rng = Rng(seed);
        let (mut outstanding, mut unanswered) = (0u32, 0u32);
        for (which, value) in wild {
            page.store(usize::from(which % 4) * 4, value >> (rng.below(32)));
            if front.push(&request(1)).is_some() { outstanding += 1; }
            let _ = front.publish();
            while let Ok(Some(_)) = back.pop() {
                unanswered += 1;
                prop_assert!(unanswered <= back.size());
            }
            if unanswered > 0 && back.push(&response(1)).is_ok() { unanswered -= 1; }
            let _ = back.publish();
            while let Ok(Some(_)) = front.pop() {
                prop_assert!(outstanding > 0, "a response to no request");
                outstanding -= 1;
            }
            let _ = (front.arm(), back.arm());
        }
    }
}

#[test]
fn an_index_beyond_the_ring_is_corrupt() {
    let (mut front, mut back, page) = pair();
    page.store(REQ_PROD, back.size() + 1);
    assert_eq!(back.pop(), Err(RingCorrupt));
    page.store(REQ_PROD, u32::MAX);
    assert_eq!(back.pop(), Err(RingCorrupt));
    assert_eq!(back.arm(), Err(RingCorrupt));
    page.store(RSP_PROD, 1);
    assert_eq!(front.pop(), Err(RingCorrupt), "nothing was asked");
}

#[test]
fn a_ring_of_several_pages_has_as_many_slots_as_fit() {
    use crate::share::PageRun;
    for (pages, slots) in [(1, 32), (2, 64), (4, 128), (8, 256)] {
        let run = PageRun((0..pages).map(|_| Page::new()).collect());
        assert_eq!(FrontRing::<Numbers, _>::new(run).size(), slots);
    }
}

#[test]
fn slots_that_straddle_pages_arrive_whole() {
    use crate::share::PageRun;
    let pages: Vec<Page> = (0..4).map(|_| Page::new()).collect();
    let mut front = FrontRing::<Numbers, _>::new(PageRun(pages.clone()));
    let mut back = BackRing::<Numbers, _>::attach(PageRun(pages)).expect("a fresh ring");
    for number in 0..1000 {
        front.push(&request(number)).expect("room");
        let _ = front.publish();
        assert_eq!(back.pop(), Ok(Some(request(number))));
        back.push(&response(number)).expect("room");
        let _ = back.publish();
        assert_eq!(front.pop().map(|r| r.map(|r| r.1)), Ok(Some(response(number))));
    }
}

//! Compares the ring arithmetic with the macros of `io/ring.h`, run on the same indices.
//!
//! An index that wraps, or a peer's index that makes no sense, is where hand-written ring code goes
//! wrong; so the indices are drawn around the wrap and around the edges of what is valid, and the
//! macros themselves say what is right.

use shared_abi::io::{blkif, netif, ring};

mod oracle;

/// A small generator, so that each run asks the same questions (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A place to start: often close to where 32 bits wrap.
    fn start(&mut self) -> u32 {
        let near = self.next() % 80;
        match self.next() % 3 {
            0 => near,
            1 => 0u32.wrapping_sub(near),
            _ => self.next(),
        }
    }

    /// A distance: mostly within a ring of `size`, at its edges, or anything.
    fn distance(&mut self, size: u32) -> u32 {
        match self.next() % 8 {
            0 => size,
            1 => size + 1,
            2 => 0u32.wrapping_sub(1 + self.next() % 4),
            3 => self.next(),
            _ => self.next() % (size + 1),
        }
    }
}

#[test]
fn ring_sizes_are_the_macros() {
    let lines = oracle::run(
        "ring_sizes",
        r#"
        for (unsigned pages = 1; pages <= 64; pages *= 2)
            printf("%lu %lu %lu\n", (unsigned long)__CONST_RING_SIZE(blkif, 4096UL * pages),
                   (unsigned long)__CONST_RING_SIZE(netif_tx, 4096UL * pages),
                   (unsigned long)__CONST_RING_SIZE(netif_rx, 4096UL * pages));
        "#,
    );
    for (log, line) in lines.iter().enumerate() {
        let bytes = 4096 << log;
        let here = format!(
            "{} {} {}",
            blkif::ring_size(1 << log),
            ring::ring_size(bytes, netif::TX_ENTRY_SIZE),
            ring::ring_size(bytes, netif::RX_ENTRY_SIZE)
        );
        assert_eq!(line, &here, "{bytes} bytes");
    }
    assert_eq!(blkif::ring_size(1), 32);
    assert_eq!((netif::TX_RING_SIZE, netif::RX_RING_SIZE), (256, 256));
    assert_eq!(ring::ring_size(ring::HEADER_SIZE, 8), 0);
    assert_eq!(ring::ring_size(ring::HEADER_SIZE + 8, 8), 1);
    assert_eq!(ring::ring_size(0, 8), 0);
    assert_eq!(ring::ring_size(4096, 0), 0);
    assert_eq!(ring::ring_size(usize::MAX, 1), 1 << 31);
}

#[test]
fn a_backends_view_is_the_macros() {
    // Each case: what the backend has consumed and answered (its own, so valid), and what the
    // frontend claims to have produced (anything).
    const SIZE: u32 = 32;
    let mut numbers = Numbers(0x0eb0_0c1e);
    let cases: Vec<[u32; 3]> = (0..4000)
        .map(|_| {
            let rsp_prod_pvt = numbers.start();
            let req_cons = rsp_prod_pvt.wrapping_add(numbers.next() % (SIZE + 1));
            let req_prod = rsp_prod_pvt.wrapping_add(numbers.distance(SIZE));
            [rsp_prod_pvt, req_cons, req_prod]
        })
        .collect();
    let rows: String = cases.iter().map(|[a, b, c]| format!("{{{a}u, {b}u, {c}u}},\n")).collect();
    let lines = oracle::run(
        "backend_ring",
        &format!(
            r#"
            static const unsigned cases[][3] = {{ {rows} }};
            static union {{ struct blkif_sring s; char page[4096]; }} u;
            for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {{
                struct blkif_back_ring r;
                BACK_RING_INIT(&r, &u.s, 4096);
                r.rsp_prod_pvt = cases[i][0];
                r.req_cons = cases[i][1];
                u.s.req_prod = cases[i][2];
                printf("%d %d %u %ld\n", !!RING_REQUEST_PROD_OVERFLOW(&r, u.s.req_prod),
                       !!RING_REQUEST_CONS_OVERFLOW(&r, r.req_cons),
                       XEN_RING_NR_UNCONSUMED_REQUESTS(&r),
                       (long)((char *)RING_GET_REQUEST(&r, r.req_cons) - u.page));
            }}
            "#
        ),
    );
    assert_eq!(lines.len(), cases.len());
    let mut believed = 0;
    for ([rsp_prod_pvt, req_cons, req_prod], line) in cases.into_iter().zip(lines) {
        let prod_overflow = ring::request_prod_overflow(SIZE, req_prod, rsp_prod_pvt);
        let cons_overflow = ring::request_cons_overflow(SIZE, req_cons, rsp_prod_pvt);
        let offset = ring::entry_offset(req_cons, SIZE, blkif::ENTRY_SIZE);
        let unconsumed = ring::unconsumed_requests(SIZE, req_prod, req_cons, rsp_prod_pvt);

        let c: Vec<i64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let context = format!("answered {rsp_prod_pvt}, consumed {req_cons}, claimed {req_prod}");
        assert_eq!([c[0], c[1]], [prod_overflow.into(), cons_overflow.into()], "{context}");
        assert_eq!(c[3], offset as i64, "{context}");
        match unconsumed {
            None => assert!(prod_overflow, "{context}"),
            Some(n) => {
                believed += 1;
                assert!(!prod_overflow, "{context}");
                assert_eq!(c[2], n.into(), "{context}");
            }
        }
    }
    assert!((1000..4000).contains(&believed), "{believed} of 4000 cases were believable");
}

#[test]
fn a_frontends_view_is_the_macros() {
    const SIZE: u32 = 32;
    let mut numbers = Numbers(0xf00d_face);
    let cases: Vec<[u32; 3]> = (0..4000)
        .map(|_| {
            let rsp_cons = numbers.start();
            let req_prod_pvt = rsp_cons.wrapping_add(numbers.next() % (SIZE + 1));
            let rsp_prod = rsp_cons.wrapping_add(numbers.distance(SIZE));
            [rsp_cons, req_prod_pvt, rsp_prod]
        })
        .collect();
    let rows: String = cases.iter().map(|[a, b, c]| format!("{{{a}u, {b}u, {c}u}},\n")).collect();
    let lines = oracle::run(
        "frontend_ring",
        &format!(
            r#"
            static const unsigned cases[][3] = {{ {rows} }};
            static union {{ struct blkif_sring s; char page[4096]; }} u;
            for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {{
                struct blkif_front_ring r;
                FRONT_RING_INIT(&r, &u.s, 4096);
                r.rsp_cons = cases[i][0];
                r.req_prod_pvt = cases[i][1];
                u.s.rsp_prod = cases[i][2];
                printf("%u %d %u\n", RING_FREE_REQUESTS(&r),
                       !!RING_RESPONSE_PROD_OVERFLOW(&r, u.s.rsp_prod),
                       XEN_RING_NR_UNCONSUMED_RESPONSES(&r));
            }}
            "#
        ),
    );
    assert_eq!(lines.len(), cases.len());
    for ([rsp_cons, req_prod_pvt, rsp_prod], line) in cases.into_iter().zip(lines) {
        let c: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let context = format!("consumed {rsp_cons}, produced {req_prod_pvt}, claimed {rsp_prod}");
        assert_eq!(c[0], ring::free_requests(SIZE, req_prod_pvt, rsp_cons), "{context}");
        let overflow = ring::response_prod_overflow(SIZE, rsp_prod, rsp_cons);
        assert_eq!(c[1] != 0, overflow, "{context}");
        // The macro bounds a response by the ring's length; a frontend that keeps count can bound it by
        // the requests it made.
        match ring::unconsumed_responses(rsp_prod, rsp_cons, req_prod_pvt) {
            Some(n) => {
                assert_eq!(c[2], n, "{context}");
                assert!(!overflow && n <= req_prod_pvt.wrapping_sub(rsp_cons), "{context}");
            }
            None => assert!(c[2] > req_prod_pvt.wrapping_sub(rsp_cons), "{context}"),
        }
    }
}

#[test]
fn who_is_notified_is_the_macros() {
    let mut numbers = Numbers(0xbe11);
    let cases: Vec<[u32; 3]> = (0..4000)
        .map(|_| {
            let old = numbers.start();
            let new = old.wrapping_add(numbers.next() % 33);
            let event = old.wrapping_add(numbers.distance(32)).wrapping_sub(numbers.next() % 3);
            [old, new, event]
        })
        .collect();
    let rows: String = cases.iter().map(|[a, b, c]| format!("{{{a}u, {b}u, {c}u}},\n")).collect();
    let lines = oracle::run(
        "notify",
        &format!(
            r#"
            static const unsigned cases[][3] = {{ {rows} }};
            static union {{ struct blkif_sring s; char page[4096]; }} u;
            for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {{
                struct blkif_front_ring f;
                struct blkif_back_ring b;
                int requests, responses;
                FRONT_RING_INIT(&f, &u.s, 4096);
                BACK_RING_INIT(&b, &u.s, 4096);
                u.s.req_prod = u.s.rsp_prod = cases[i][0];
                f.req_prod_pvt = b.rsp_prod_pvt = cases[i][1];
                u.s.req_event = u.s.rsp_event = cases[i][2];
                RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&f, requests);
                RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&b, responses);
                printf("%d %d\n", requests, responses);
            }}
            "#
        ),
    );
    assert_eq!(lines.len(), cases.len());
    for ([old, new, event], line) in cases.into_iter().zip(lines) {
        let here = u32::from(ring::must_notify(old, new, event));
        assert_eq!(line, format!("{here} {here}"), "from {old} to {new}, event {event}");
    }
}

#[test]
fn an_empty_ring_is_the_macros() {
    let lines = oracle::run(
        "empty_ring",
        r#"
        static struct empty_sring s;
        memset(&s, 0xff, sizeof(s));
        SHARED_RING_INIT(&s);
        for (size_t i = 0; i < sizeof(s); i++)
            printf("%u\n", ((unsigned char *)&s)[i]);
        "#,
    );
    let bytes: Vec<u8> = lines.iter().map(|l| l.parse().unwrap()).collect();
    assert_eq!(bytes, zerocopy::IntoBytes::as_bytes(&ring::Sring::INIT));
}

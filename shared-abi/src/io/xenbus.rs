//! Restates `io/xenbus.h`: the states through which the two halves of a split driver meet.

macro_rules! states {
    ($( $(#[$meta:meta])* $name:ident($c:ident) = $value:literal ),* $(,)?) => {
        /// The `state` node of a frontend or backend, a decimal number. C: `enum xenbus_state`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum XenbusState {
            $( $(#[$meta])* $name = $value, )*
        }

        impl XenbusState {
            /// The state with this number.
            pub const fn from_number(number: u32) -> Option<XenbusState> {
                match number {
                    $( $value => Some(XenbusState::$name), )*
                    _ => None,
                }
            }

            /// The states with the header's names, for the conformance test.
            #[doc(hidden)]
            pub const ALL: &[(&str, XenbusState)] = &[$( (stringify!($c), XenbusState::$name), )*];
        }
    };
}

states! {
    /// Nothing known, or no such node.
    Unknown(XenbusStateUnknown) = 0,
    /// Starting.
    Initialising(XenbusStateInitialising) = 1,
    /// The backend has written what it offers and waits for the frontend.
    InitWait(XenbusStateInitWait) = 2,
    /// The frontend has written where its rings are and waits for the backend.
    Initialised(XenbusStateInitialised) = 3,
    /// At work.
    Connected(XenbusStateConnected) = 4,
    /// The device is going away; in-flight work ends.
    Closing(XenbusStateClosing) = 5,
    /// Nothing is shared any more.
    Closed(XenbusStateClosed) = 6,
    /// The backend changes while connected.
    Reconfiguring(XenbusStateReconfiguring) = 7,
    /// The change is done.
    Reconfigured(XenbusStateReconfigured) = 8,
}

impl XenbusState {
    /// The state a `state` node's text means; anything that is not one is `Unknown`.
    pub fn parse(text: &str) -> XenbusState {
        text.trim().parse().ok().and_then(Self::from_number).unwrap_or(XenbusState::Unknown)
    }

    /// The number to write.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

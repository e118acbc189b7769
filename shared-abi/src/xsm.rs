//! Restates `xsm/flask_op.h`: operations on a security policy, so far as to tell them from unknown ones.

abi_constants! {
    "The interface's version.": u32 {
        XEN_FLASK_INTERFACE_VERSION = 1,
    }
    "`xsm_op` command, the first word of its argument.": u32 {
        FLASK_LOAD = 1,
        FLASK_GETENFORCE = 2,
        FLASK_SETENFORCE = 3,
        FLASK_CONTEXT_TO_SID = 4,
        FLASK_SID_TO_CONTEXT = 5,
        FLASK_ACCESS = 6,
        FLASK_CREATE = 7,
        FLASK_RELABEL = 8,
        FLASK_USER = 9,
        FLASK_POLICYVERS = 10,
        FLASK_GETBOOL = 11,
        FLASK_SETBOOL = 12,
        FLASK_COMMITBOOLS = 13,
        FLASK_MLS = 14,
        FLASK_DISABLE = 15,
        FLASK_GETAVC_THRESHOLD = 16,
        FLASK_SETAVC_THRESHOLD = 17,
        FLASK_AVC_HASHSTATS = 18,
        FLASK_AVC_CACHESTATS = 19,
        FLASK_MEMBER = 20,
        FLASK_ADD_OCONTEXT = 21,
        FLASK_DEL_OCONTEXT = 22,
        FLASK_GET_PEER_SID = 23,
        FLASK_RELABEL_DOMAIN = 24,
        FLASK_DEVICETREE_LABEL = 25,
    }
}

"""The faults, one file each. A new one is registered by its line here."""

from holdfast.chaos.faults.captive import Captive as Captive
from holdfast.chaos.faults.fin import Fin as Fin
from holdfast.chaos.faults.flip import Flip as Flip
from holdfast.chaos.faults.idle_close import IdleClose as IdleClose
from holdfast.chaos.faults.interim import Interim as Interim
from holdfast.chaos.faults.latency import Latency as Latency
from holdfast.chaos.faults.misrange import Misrange as Misrange
from holdfast.chaos.faults.node_etag import NodeEtag as NodeEtag
from holdfast.chaos.faults.refuse import Refuse as Refuse
from holdfast.chaos.faults.replace import Replace as Replace
from holdfast.chaos.faults.reset import Reset as Reset
from holdfast.chaos.faults.slices import Slices as Slices
from holdfast.chaos.faults.slow import Slow as Slow
from holdfast.chaos.faults.stall import Stall as Stall
from holdfast.chaos.faults.status import Status as Status
from holdfast.chaos.faults.surplus import Surplus as Surplus
from holdfast.chaos.faults.truncate import Truncate as Truncate

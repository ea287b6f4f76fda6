"""The table of relations: subjects | values | weight, then statements and questions.

`@2` after a question binds it to the statement with that number; `!v` and `!w` ask for one of two
values, `!who` for the subject.
"""

__all__ = ["TABLE"]

TABLE = """
thing place-any | place | 3
  says: {s} {is} {v}
  asks: Where {is} {s}?; Where can I find {s}?; Tell me where {s} {is}.; {s}?; Where {is} {s}
    now?; Do you know where {s} {is}?
  who: What is {v}?
  sure: {Is} {s} {v}?

thing | place | 2
  says: {s} {is} kept {v}; You find {s} {v}
  asks: Where {is} {s} kept?; Where do we keep {s}?; Where {is} {s}?
  who: What is kept {v}?
  sure: {Is} {s} kept {v}?

thing | place | 1.5
  says: I put {s} {v}; I left {s} {v}; We put {s} {v}; We keep {s} {v}
  asks: Where {is} {s}?; Where did I put {s}?; Where did I leave {s}?; Where do we keep {s}?

thing | place | 0.8
  says: Please put {s} {v}; Put {s} {v}; {s} should go {v}; {s} {belong} {v}
  asks: Where {do} {s} go?; Where should {s} go?; Where do I put {s}?; Where {do} {s} belong?

event | when | 2.5
  says: {s} {is} {v}; {s} {take} place {v}; {s} will be {v}; {s}: {v}; {s} {was} moved to {V};
    The date of {s} is {V}; {b} {v}; {s} {was} moved from {x} to {V}; {s} {is} {v}, not {w};
    {s} {is} not {w} but {v}; Do not forget {s} {v}
  asks: When {is} {s}?; When {do} {s} take place?; What time {is} {s}?; What day {is} {s}?;
    {s}?; when {is} {s}; On which day {is} {s}?; When {is} {s} now?
  who: What {is} {v}?
  sure: {Is} {s} {v}?

event | place | 1.5
  says: {s} {is} {v}; {s} {take} place {v}; {s} will be held {v}; {s} {is} held {v}; {s}: {v}
  asks: Where {is} {s}?; Where {do} {s} take place?; Where {is} {s} held?; Where will {s} be?
  who: What {is} {v}?
  sure: {Is} {s} {v}?

person | place city | 0.8
  says: {s} {is} {v}; {s} {is} staying {v}; {s} {is} waiting {v}
  asks: Where {is} {s}?; Where can I find {s}?; Where {is} {s} now?
  who: Who is {v}?
  sure: {Is} {s} {v}?

person | city | 0.8
  says: {s} {come} {f}; {s} {is} {f}
  asks: Where {do} {s} come from?; Where {is} {s} from?
  who: Who comes {f}?

person | city | 0.8
  says: {s} {was} born {v}
  asks: Where {was} {s} born?; In which city {was} {s} born?; What is the birthplace of {s}?
  who: Who was born {v}?
  sure: {Was} {s} born {v}?

person animal | year date | 0.8
  says: {s} {was} born {v}
  asks: When {was} {s} born?; In what year {was} {s} born?; What year {was} {s} born?; When {do}
    {s} have a birthday?
  who: Who was born {v}?
  sure: {Was} {s} born {v}?

birthday | date | 1
  says: {s} {is} on {v}; {s} {is} {v}; {s}: {v}
  asks: When {is} {s}?; {s}?; What date {is} {s}?; On what date {is} {s}?
  who: Whose birthday is on {v}?

person | city | 0.6
  says: {s} moved {t} last year; {s} moved {t}
  asks: Where did {s} move?; Where did {s} move to?
  who: Who moved {t}?
  sure: Did {s} move {t}?

thing event shop-thing | amount | 2
  says: {s} {cost} {v}; {s} {is} {v}; The price of {s} is {v}; {s}: {v}; I paid {v} for {s}; We
    paid {v} for {s}; {s} {cost} us {v}
  asks: How much {do} {s} cost?; What {do} {s} cost?; How much {is} {s}?; What is the price of
    {s}?; Price of {s}?; How much did we pay for {s}?
  who: What costs {v}?
  sure: {Do} {s} cost {v}?

person | amount | 1
  says: {s} {owe} me {v}; {s} {earn} {v} a month; {s} {get} {v} an hour; {s} paid {v}; {s} gave
    {v}
  asks: How much {do} {s} owe me?@0; How much {do} {s} earn?@1; What {do} {s} earn?@1; How much
    {do} {s} get?@2; How much did {s} pay?@3; How much did {s} give?@4
  who: Who owes me {v}?@0; Who earns {v} a month?@1; Who paid {v}?@3

thing animal | weight | 1
  says: {s} {weigh} {v}; The weight of {s} is {v}; {s}: {v}
  asks: How much {do} {s} weigh?; What {do} {s} weigh?; What is the weight of {s}?; How heavy
    {is} {s}?
  who: What weighs {v}?
  sure: {Do} {s} weigh {v}?

thing building | length | 1.5
  says: {s} {is} {v} long; {s} {is} {v} high; {s} {is} {v} wide; {s} {is} {v} tall; {s} {is} {v}
    deep; {s} {is} {v} thick
  asks: How long {is} {s}?@0; How high {is} {s}?@1; How wide {is} {s}?@2; How tall {is} {s}?@3;
    How deep {is} {s}?@4; How thick {is} {s}?@5; What is the length of {s}?@0; What is the
    height of {s}?@1; What is the width of {s}?@2
  sure: {Is} {s} {v} long?@0; {Is} {s} {v} high?@1

person animal building | age | 1.2
  says: {s} {is} {v} years old; {s} {is} {v}; {s} will be {v} in May; {s} {is} {v} now
  asks: How old {is} {s}?; What is the age of {s}?; What age {is} {s}?
  who: Who is {v} years old?
  sure: {Is} {s} {v} years old?

thing | volume | 0.5
  says: {s} {hold} {v}; {s} {contain} {v}
  asks: How much {do} {s} hold?; How much {do} {s} contain?; What {do} {s} hold?; How much fits
    into {s}?
  who: What holds {v}?

thing shop | heat | 0.6
  says: {s} {is} {v} warm; {s} {is} set to {v}; The temperature of {s} is {v}; It is {v} in {s}
  asks: How warm {is} {s}?; What is the temperature of {s}?; What temperature {do} {s} have?;
    How warm is it in {s}?

vehicle | speed | 0.4
  says: {s} {go} {v}; {s} {reach} {v}
  asks: How fast {do} {s} go?; How fast {is} {s}?; What speed {do} {s} reach?

event vehicle | span | 1.5
  says: {s} {last} {v}; {s} {take} {v}; The duration of {s} is {v}; {s} {is} {v} long; {s}: {v}
  asks: How long {do} {s} last?; How long {do} {s} take?; How long {is} {s}?; What is the
    duration of {s}?
  sure: {Do} {s} last {v}?

food-thing | span | 0.6
  says: {s} must bake for {v}; Cook {s} for {v}; {s} {need} {v}; Leave {s} in the oven for {v}
  asks: How long must {s} bake?@0; How long should I cook {s}?@1; How long do I cook {s}?@1; How
    long {do} {s} need?@2; How long do I leave {s} in the oven?@3

person | span | 0.6
  says: {s} {has} lived here for {v}; {s} {has} worked here for {v}; {s} will be away for {v};
    {s} {has} been ill for {v}
  asks: How long {has} {s} lived here?@0; How long {has} {s} worked here?@1; How long will {s}
    be away?@2; How long {has} {s} been ill?@3
  who: Who will be away for {v}?@2

vehicle event | often | 1
  says: {s} {run} {v}; {s} {take} place {v}; {s} {is} held {v}
  asks: How often {do} {s} run?@0; When {do} {s} run?@0; How often {do} {s} take place?@1; How
    often {is} {s} held?@2; When {is} {s} held?@2
  who: What takes place {v}?@1

person | often | 0.8
  says: {s} {go} swimming {v}; {s} {call} {v}; {s} {come} here {v}; {s} {practise} {v}; {s}
    {visit} us {v}; {s} {clean} the house {v}
  asks: How often {do} {s} go swimming?@0; How often {do} {s} call?@1; How often {do} {s} come
    here?@2; How often {do} {s} practise?@3; How often {do} {s} visit us?@4; How often {do} {s}
    clean the house?@5
  who: Who calls {v}?@1; Who comes here {v}?@2

thing | often | 0.6
  says: {s} {need} water {v}; Water {s} {v}; {s} must be cleaned {v}; {s} {is} checked {v}
  asks: How often {do} {s} need water?@0; How often should I water {s}?@1; How often must {s} be
    cleaned?@2; How often {is} {s} checked?@3

shop | often | 1
  says: {s} {is} closed {v}; {s} {is} open {v}
  asks: When {is} {s} closed?@0; On which days {is} {s} closed?@0; When {is} {s} open?@1; How
    often {is} {s} open?@1
  who: What is closed {v}?@0
  sure: {Is} {s} closed {v}?@0; {Is} {s} open {v}?@1

shop | until | 1
  says: {s} {is} open until {v}; {s} {close} at {v}; {s} {shut} at {v}
  asks: Until when {is} {s} open?; How late {is} {s} open?; When {do} {s} close?; What time {do}
    {s} close?; How long {is} {s} open?; When {do} {s} shut?
  sure: {Is} {s} open until {v}?

shop event | clock | 1.5
  says: {s} {is} open from {v} to {w}; {s} {last} from {v} to {w}; {s}: {v} - {w}; {s} {open} at
    {v} and {close} at {w}; {s} {start} at {v} and {end} at {w}
  asks: When {is} {s} open?@0; From when to when {is} {s} open?@0; From when to when {do} {s}
    last?@1; When {do} {s} open?@3!v; When {do} {s} close?@3!w; When {do} {s} start?@4!v; When
    {do} {s} end?@4!w; What time {do} {s} open?@3!v; What time {do} {s} end?@4!w; When {do} {s}
    begin?@4!v

vehicle | clock | 0.8
  says: {s} {leave} at {v} and {arrive} at {w}; {s} {depart} at {v} and {get} in at {w}
  asks: When {do} {s} leave?@0!v; What time {do} {s} arrive?@0!w; When {do} {s} depart?@1!v;
    When {do} {s} get in?@1!w; When {do} {s} arrive?@0!w

vehicle | from | 1.2
  says: {s} {leave} {v}; {s} {depart} {v}; {s} {go} {v}; {s} {start} {v}
  asks: Where {do} {s} leave from?; From where {do} {s} leave?; Which platform {do} {s} leave
    from?; Where {do} {s} go from?; Where {do} {s} depart from?
  who: What leaves {v}?
  sure: {Do} {s} leave {v}?

vehicle road | to | 0.8
  says: {s} {go} {v}; {s} {lead} {v}; {s} {run} {v}; Take {s} to get {v}
  asks: Where {do} {s} go?; Where {do} {s} go to?; Where {do} {s} lead?; Where {do} {s} run to?
  who: What goes {v}?
  sure: {Do} {s} go {v}?

person | to | 0.8
  says: {s} {is} going {v} tomorrow; {s} {is} on the way {v}; {s} went {v}; {s} {fly} {v} next
    week
  asks: Where {is} {s} going?@0; Where {is} {s} going tomorrow?@0; Where {is} {s}?@1; Where did
    {s} go?@2; Where {do} {s} fly?@3
  who: Who is going {v}?@0; Who went {v}?@2
  sure: Did {s} go {v}?@2

thing building shop | year date | 2
  says: {s} {was} built {v}; {s} {was} opened {v}; {s} {was} founded {v}; {s} {was} bought {v};
    {s} {was} repaired {v}; {s} {was} sold {v}; {s} {was} painted {v}; {s} {was} delivered {v};
    {s} {was} closed {v}
  asks: When {was} {s} built?@0; In which year {was} {s} built?@0; When {was} {s} opened?@1;
    When {was} {s} founded?@2; When {was} {s} bought?@3; When did we buy {s}?@3; When {was} {s}
    repaired?@4; When {was} {s} sold?@5; When {was} {s} painted?@6; When {was} {s} delivered?@7;
    When {was} {s} closed?@8
  who: What was built {v}?@0; What was opened {v}?@1
  sure: {Was} {s} built {v}?@0

document | date when | 2
  says: {s} {is} due {v}; {s} must be finished {v}; {s} must be paid {v}; {s} {expire} {v}; {s}
    {end} {v}; {s} {run} out {v}
  asks: When {is} {s} due?@0; When must {s} be finished?@1; What is the deadline for {s}?@1;
    When must {s} be paid?@2; When {do} {s} expire?@3; When {do} {s} end?@4; When {do} {s} run
    out?@5
  who: What is due {v}?@0; What must be finished {v}?@1; What expires {v}?@3
  sure: {Is} {s} due {v}?@0

person | when | 2
  says: {s} {is} coming {v}; {s} will come {v}; {s} will be back {v}; {s} will call {v}; {s}
    {has} time {v}; {s} {leave} {v}; {s} {get} up {v}; {s} {go} to bed {v}; {s} {start} work
    {v}; {s} {finish} work {v}
  asks: When {is} {s} coming?@0; When will {s} come?@1; When {do} {s} come?@1; When will {s} be
    back?@2; When will {s} call?@3; When {do} {s} have time?@4; When {do} {s} leave?@5; When
    {do} {s} get up?@6; When {do} {s} go to bed?@7; When {do} {s} start work?@8; When {do} {s}
    finish work?@9; What time {do} {s} leave?@5; What time {do} {s} get up?@6
  who: Who is coming {v}?@0; Who will be back {v}?@2; Who will call {v}?@3
  sure: {Is} {s} coming {v}?@0; Will {s} come {v}?@1

role | person | 4
  says: {s} {is} {v}; {v} {is} {s}; {s} {is} called {v}; {v} will be {s}; The name of {s} is
    {v}; {s}: {v}; {s}'s name is {v}
  asks: Who {is} {s}?; What is the name of {s}?; What {is} {s} called?; {s}?; What is {s}'s
    name?; who {is} {s}; Do you know who {s} {is}?
  who: Who {is} {v}?!who; What {is} {v}?!who
  sure: {Is} {v} {s}?

animal thing shop person | title | 1.5
  says: {s} {is} called {v}; {s} {is} named {v}; The name of {s} is {v}; We call {s} {v}; {s}'s
    name is {v}
  asks: What {is} {s} called?; What is the name of {s}?; What {is} {s}'s name?; How {is} {s}
    called?; Name of {s}?
  who: Who is called {v}?
  sure: {Is} {s} called {v}?

thing | person | 1.5
  says: {s} {belong} to {v}; {s} {is} {v}'s; {v} owns {s}
  asks: Whose {is} {s}?; Who {do} {s} belong to?; Who owns {s}?; To whom {do} {s} belong?
  who: What belongs to {v}?
  sure: {Do} {s} belong to {v}?

thing | person | 1.2
  says: {s} {is} with {v}; {v} has {s}; Ask {v} for {s}; {v} is responsible for {s};
    {v} looks after {s}; Give {s} to {v}; {v} took {s}; {s} {was} given to {v}; {s} went to {v}
  asks: Who has {s}?@0; Where {is} {s}?@0; Who has {s}?@1; Who do I ask for {s}?@2; Who can I ask
    for {s}?@2; Who is responsible for {s}?@3; Who looks after {s}?@4; Who should get {s}?@5;
    To whom do I give {s}?@5; Who took {s}?@6; Who {was} {s} given to?@7; Who got {s}?@7; Who got
    {s}?@8
  who: What did {v} take?@6

person-third | person | 1.2
  says: {s} {sit} beside {v}; {s} {is} married to {v}; {s} {work} for {v}; {s} {help} {v}; {s}
    {know} {v}; {s} met {v}; {s} {live} with {v}; {s} {is} older than {v}; {s} called {v}; {s}
    {love} {v}; {s} {is} the sister of {v}; {s} {play} against {v}
  asks: Who {do} {s} sit beside?@0; Who {is} {s} married to?@1; Who {do} {s} work for?@2; Who {do}
    {s} help?@3; Who {do} {s} know?@4; Who did {s} meet?@5; Who {do} {s} live with?@6; Who {is} {s}
    older than?@7; Who did {s} call?@8; Who {do} {s} love?@9; Who {do} {s} play against?@11
  who: Who sits beside {v}?@0; Who is married to {v}?@1; Who works for {v}?@2; Who helps {v}?@3; Who
    met {v}?@5; Who lives with {v}?@6; Who is older than {v}?@7; Who called {v}?@8; Who loves
    {v}?@9; Who is the sister of {v}?@10
  sure: {Do} {s} sit beside {v}?@0; {Is} {s} married to {v}?@1; {Do} {s} know {v}?@4

event | when | 1.5
  says: {s} {is} {v} {y}; {s} {take} place {v} {y}; {s} will be held {v} {y}; {s} {start} {v} {y}
  asks: When {is} {s}?@0!v; Where {is} {s}?@0!y; What time {is} {s}?@0!v; When {do} {s} take
    place?@1!v; Where {do} {s} take place?@1!y; When will {s} be held?@2!v; Where will {s} be
    held?@2!y; When {do} {s} start?@3!v; Where {do} {s} start?@3!y

vehicle person | from | 1
  says: {s} {leave} {v} {y}; {s} {depart} {v} {y}
  asks: Where {do} {s} leave from?@0!v; When {do} {s} leave?@0!y; What time {do} {s} leave?@0!y;
    When {do} {s} depart?@1!y; Where {do} {s} depart from?@1!v

thing shop event person animal | state | 2
  says: {s} {is} {v}; {s} {is} {v} now; {s} {is} still {v}; {s} {is} {v} again; {s} {is} always {v}
  asks: How {is} {s}?; What {is} {s} like?
  who: What is {v}?
  sure: {Is} {s} {v}?; {Is} {s} {v}?

person animal | food activity | 1
  says: {s} {do} not eat {v}; {s} {do} not like {v}; {s} never {buy} {v}; {s} {do} not want {v};
    {s} can not stand {v}; {s} {do} not need {v}
  asks: What {do} {s} not eat?@0; What {do} {s} not like?@1; What {do} {s} never buy?@2; What {do}
    {s} not want?@3; What can {s} not stand?@4; What {do} {s} not need?@5
  sure: {Do} {s} eat {v}?@0!no; {Do} {s} like {v}?@1!no; {Do} {s} buy {v}?@2!no; {Do} {s} want
    {v}?@3!no; {Do} {s} like {v}?@4!no; {Do} {s} need {v}?@5!no

shop building | many | 0.8
  says: {v} are not allowed in {s}; {v} are allowed in {s}; {v} are forbidden in {s}; {v} are
    welcome in {s}; {v} are free in {s}
  asks: What is not allowed in {s}?@0; What is allowed in {s}?@1; What is forbidden in {s}?@2; What
    is welcome in {s}?@3; What is free in {s}?@4
  sure: Are {v} allowed in {s}?@0!no; Can I bring {v} into {s}?@0!no; Are {v} allowed in {s}?@1!yes;
    Can I bring {v} into {s}?@1!yes; Are {v} allowed in {s}?@2!no; Are {v} welcome in {s}?@3!yes;
    Are {v} free in {s}?@4!yes

numbered | definite | 1
  says: {s} {is} {v}; {s}: {v}; {s} {is} for {v}
  asks: What {is} {s}?; {s}?; What {is} {s} for?; What about {s}?
  who: Which {h} is {v}?; What number is {v}?
  sure: {Is} {s} {v}?

person-third animal | state object | 0.8
  says: {s} {has} no {k}; {s} {do} not have a {k}; {s} {has} a {k}; {s} {own} a {k}
  asks: What {do} {s} not have?@0; What {do} {s} not have?@1; What {do} {s} have?@2; What {do} {s}
    own?@3
  who: Who has no {k}?@0; Who has a {k}?@2; Who owns a {k}?@3
  sure: {Do} {s} have a {k}?@0!no; {Do} {s} have a {k}?@1!no; {Do} {s} have a {k}?@2!yes; {Do} {s}
    own a {k}?@3!yes

person | deed | 1
  says: {s} {k}; {s} did not {h}
  asks: What did {s} do?@0; What did {s} not do?@1
  who: Who {k}?@0
  sure: Did {s} {h}?@0!yes; Did {s} {h}?@1!no

thing document | person | 2.5
  says: {s} {was} written by {v}; {s} {was} made by {v}; {s} {was} found by {v}; {s} {was}
    painted by {v}; {s} {was} designed by {v}; {s} {was} invented by {v}; {s} {was} repaired by
    {v}; {s} {was} stolen by {v}; {s} {is} from {v}; {s} {was} brought by {v}
  asks: Who wrote {s}?@0; Who {was} {s} written by?@0; Who is the author of {s}?@0; Who made
    {s}?@1; Who found {s}?@2; Who painted {s}?@3; Who designed {s}?@4; Who invented {s}?@5; Who
    repaired {s}?@6; Who stole {s}?@7; Who {is} {s} from?@8; Who brought {s}?@9; Who {was} {s}
    made by?@1; By whom {was} {s} painted?@3
  who: What was written by {v}?@0; What did {v} make?@1; What was painted by {v}?@3; What did
    {v} find?@2
  sure: Did {v} write {s}?@0

thing colour-thing | colour | 1.3
  says: {s} {is} {v}; {s} {is} painted {v}; The colour of {s} is {v}; {s} {has} a {v} colour
  asks: What colour {is} {s}?; What color {is} {s}?; Which colour {is} {s}?; What is the colour
    of {s}?; Which colour {do} {s} have?
  who: What is {v}?
  sure: {Is} {s} {v}?

thing | material | 0.8
  says: {s} {is} made of {v}; {s} {is} of {v}
  asks: What {is} {s} made of?; Which material {is} {s} made of?; What material {is} {s}?
  who: What is made of {v}?
  sure: {Is} {s} made of {v}?

person | job | 1.2
  says: {s} {is} {v}; {s} {work} as {v}; {s} {want} to become {v}; {s} {has} a job as {v}
  asks: What {do} {s} do?; What is the job of {s}?; What {do} {s} do for a living?; What {do}
    {s} work as?; What {is} {s}?
  who: Who is {v}?; Who works as {v}?
  sure: {Is} {s} {v}?

person | language | 1
  says: {s} {speak} {v}; {s} {learn} {v}; {s} {teach} {v}
  asks: What {do} {s} speak?@0; Which languages {do} {s} speak?@0; Which language {do} {s}
    speak?@0; What language {do} {s} learn?@1; What {do} {s} learn?@1; What {do} {s} teach?@2
  who: Who speaks {v}?@0; Who learns {v}?@1; Who teaches {v}?@2
  sure: {Do} {s} speak {v}?@0

person | activity | 1
  says: {s} {play} {v}; {s} {love} {v}; {s} {teach} {v}; {s} {enjoy} {v}; {s} {hate} {v}
  asks: What {do} {s} play?@0; What {do} {s} love?@1; What {do} {s} teach?@2; What {do} {s}
    enjoy?@3; What {do} {s} hate?@4; What {do} {s} do in the evening?@0
  who: Who plays {v}?@0; Who loves {v}?@1; Who teaches {v}?@2; Who hates {v}?@4
  sure: {Do} {s} play {v}?@0; {Do} {s} love {v}?@1

person | trait | 1.5
  says: {s} {is} {v}
  asks: What {is} {s} {a}?; Who {is} {s} {a}?
  who: Who is {v}?
  sure: {Is} {s} {v}?

person | food list | 2
  says: {s} {eat} {v}; {s} {like} {v}; {s} {bring} {v}; {s} {want} {v}; {s} {cook} {v}; {s}
    {buy} {v}; {s} {drink} {v}; {s} {order} {v}
  asks: What {do} {s} eat?@0; What {do} {s} like?@1; What {do} {s} bring?@2; What {do} {s}
    want?@3; What {do} {s} cook?@4; What {do} {s} buy?@5; What {do} {s} drink?@6; What {do} {s}
    order?@7
  who: Who eats {v}?@0; Who likes {v}?@1; Who brings {v}?@2; Who wants {v}?@3; Who cooks {v}?@4
  sure: {Do} {s} eat {v}?@0; {Do} {s} like {v}?@1; {Do} {s} bring {v}?@2

person | object | 3
  says: {s} {has} {v}; {s} {want} {v} for Christmas; {s} bought {v}; {s} found {v}; {s} lost
    {v}; {s} {need} {v}; {s} {sell} {v}; {s} {collect} {v}; {s} {drive} {v}; {s} {wear} {v}; {s}
    won {v}; {s} forgot {v}; {s} gave me {v}; {s} broke {v}; {s} {is} looking for {v}
  asks: What {do} {s} have?@0; What {do} {s} want for Christmas?@1; What did {s} buy?@2; What
    did {s} find?@3; What did {s} lose?@4; What {do} {s} need?@5; What {do} {s} sell?@6; What
    {do} {s} collect?@7; What {do} {s} drive?@8; What {do} {s} wear?@9; What did {s} win?@10;
    What did {s} forget?@11; What did {s} give me?@12; What did {s} break?@13; What {is} {s}
    looking for?@14
  who: Who has {v}?@0; Who wants {v} for Christmas?@1; Who bought {v}?@2; Who found {v}?@3; Who
    lost {v}?@4; Who needs {v}?@5; Who sells {v}?@6; Who drives {v}?@8; Who won {v}?@10; Who
    forgot {v}?@11; Who broke {v}?@13
  sure: {Do} {s} have {v}?@0; Did {s} buy {v}?@2; Did {s} lose {v}?@4

person-third | duty | 2
  says: {s} {verb} {o}
  asks: Who {verb} {o}?
  who: What {do} {s} do?
  sure: {Do} {s} {base} {o}?

we event person | list | 1
  says: {s} {need} {v}; {s} must buy {v}; {s} still {need} {v}; {s} {has} to buy {v}
  asks: What {do} {s} need?@0; What must {s} buy?@1; What {do} {s} have to buy?@3; List what {s}
    {need}.@0; What {do} {s} still need?@2

thing | phrase | 1
  says: {s} {need} {v}; {s} {contain} {v}; {s} {smell} of {v}; {s} {is} full of {v}; {s} {is}
    for {v}; There is {v} in {s}; In {s} there is {v}
  asks: What {do} {s} need?@0; What {do} {s} contain?@1; What {do} {s} smell of?@2; What {is}
    {s} full of?@3; What {is} {s} for?@4; What is in {s}?@5; What is there in {s}?@6; What is
    inside {s}?@1
  who: What smells of {v}?@2

shop person event | count | 2
  says: {s} {has} {v} {p}; There are {v} {p} in {s}; {s} {need} {v} {p}; {s} {has} room for {v}
    {p}
  asks: How many {p} {do} {s} have?@0; How many {p} are there in {s}?@1; How many {p} are in
    {s}?@1; How many {p} {do} {s} need?@2; How many {p} {do} {s} have room for?@3; Number of {p}
    in {s}?@1

we | count | 1
  says: {s} {need} {v} {p}; {s} {has} {v} {p}; {s} ordered {v} {p}; {s} sold {v} {p}
  asks: How many {p} {do} {s} need?@0; How many {p} {do} {s} have?@1; How many {p} did {s}
    order?@2; How many {p} did {s} sell?@3

team | count | 0.6
  says: {s} scored {v} points; {s} won {v} games; {s} lost {v} games; {s} {has} {v} players
  asks: How many points did {s} score?@0; How many games did {s} win?@1; How many games did {s}
    lose?@2; How many players {do} {s} have?@3
  who: Who scored {v} points?@0; Who won {v} games?@1

event shop thing vehicle | reason | 0.8
  says: {s} {is} late {v}; {s} {is} closed {v}; {s} {was} cancelled {v}; {s} {is} broken {v};
    {s} will not work {v}; {s} {is} not here {v}
  asks: Why {is} {s} late?@0; Why {is} {s} closed?@1; Why {was} {s} cancelled?@2; Why {is} {s}
    broken?@3; Why will {s} not work?@4; Why {is} {s} not here?@5; What is the reason why {s}
    {is} closed?@1; What is wrong with {s}?@3

person-third | phone | 1.5
  says: You can reach {s} at {v}; {s}'s number is {v}; {s}: {v}; The phone number of {s} is {v};
    Call {s} at {v}; {s}'s new number is {v}; {s} can be reached on {v}
  asks: How can I reach {s}?; What is {s}'s number?; What is the phone number of {s}?; What is
    {s}'s phone number?; What number {do} {s} have?; {s}'s number?
  who: Whose number is {v}?

person-third shop | email street | 1
  says: Send the letter to {v}; Write to {s} at {v}; The address of {s} is {v}; {s}'s address is
    {v}; {s}: {v}
  asks: Where do I send the letter?@0; How do I write to {s}?@1; What is the address of {s}?@2;
    What is {s}'s address?@3; What is {s}'s email?@1; Address of {s}?@2; Where {do} {s} live?@2

attribute | any | 14
  says: {s} {is} {v}; {s} {is} {v}; {s} {is} {v}; {s} {is} {v}; {s}: {v}; {b}: {v}; {s} = {v};
    {s} {is} {v}, not {w}; {s} {is} no longer {w} but {v}; {s} {was} {w}, now it is {v};
    {s} {is} now {v}; {v} {is} {s}; Use {v} as {s}; New {b}: {v}; {s} {is} "{v}"
  asks: What {is} {s}?; What {is} {s}?; What's {s}?; {s}?; {s}; Tell me {s}.; Do you know {s}?;
    Give me {s}.; I forgot {s}. What is it?; Can you tell me {s}?; {b}?; what {is} {s}; Which is
    {s}?
  who: What is {v}?
  sure: {Is} {s} {v}?

thing lockable | code | 3
  says: The code for {s} is {v}; {s} {open} with {v}; The password for {s} is {v}; The
    combination of {s} is {v}; The PIN of {s} is {v}; {s} {has} the number {v}; {s} {has} the
    code {v}; {s}: {v}
  asks: What is the code for {s}?@0; How do I open {s}?@1; How {do} {s} open?@1; What is the
    password for {s}?@2; What is the combination of {s}?@3; What is the PIN of {s}?@4; Which
    number {do} {s} have?@5; What is the number of {s}?@5; What code {do} {s} have?@6; What
    opens {s}?@1
"""

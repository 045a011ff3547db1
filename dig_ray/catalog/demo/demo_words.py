"""Words of the demo world: intents with the phrases that hint at them, products, brands and plain shop sentences.

An intent is a context of use. Its name never stands in a text; each phrase says it another way, so that a reader (or a
model) has to understand and not to match words. A product lists the intents it can serve; they cross the categories.
"""

from __future__ import annotations

# key: (name, phrases)
INTENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "camp": (
        "camping in the rain",
        (
            "Made for nights when the sky opens and the ground turns to mud.",
            "Still dependable after three wet days under canvas.",
            "Shrugs off a downpour while the fire hisses and goes out.",
            "Packs away soaked and is ready again by the next clearing.",
            "For those who pitch up even when the forecast says no.",
            "Drips outside, stays snug inside.",
            "Tested through a soggy week in the woods.",
        ),
    ),
    "coffee": (
        "a coffee ritual at home",
        (
            "For people who weigh their beans before they check their phone.",
            "Makes the first quiet cup of the day worth getting up for.",
            "Brings out the bloom, the crema and a little patience.",
            "Because the barista round the corner opens too late.",
            "Slow pours, clean flavour, no hurry.",
            "Belongs next to the grinder and a favourite mug.",
            "A small ceremony before the world wakes.",
        ),
    ),
    "desk": (
        "long days at a home desk",
        (
            "Takes the ache out of the eighth video call.",
            "Keeps shoulders down and eyes fresh until the laptop closes.",
            "For the corner of the bedroom that became the office.",
            "Tidy cables, straight back, clear head.",
            "Your neck will notice by Thursday.",
            "Built for nine to five without the commute.",
            "Makes a dining table work like a real workplace.",
        ),
    ),
    "newborn": (
        "nights with a newborn",
        (
            "Works with one hand while the other holds somebody very small.",
            "Silent enough for three in the morning.",
            "For the weeks when sleep comes in slices.",
            "Dim, soft and washable, as it has to be.",
            "New parents pass this one on to the next.",
            "Saves a trip down the dark hallway between feeds.",
            "Gentle on the tiniest skin and on tired nerves.",
        ),
    ),
    "marathon": (
        "training for a first marathon",
        (
            "Sixteen weeks from couch to start line, this goes along.",
            "Does not chafe at kilometre thirty.",
            "For the long slow one every Sunday.",
            "Counts splits so that you can count breaths.",
            "Light enough to forget until the finish arch.",
            "Looks after calves that have just met hills.",
            "Pinned to a race bib sooner than you think.",
        ),
    ),
    "smallflat": (
        "living in a very small flat",
        (
            "Folds to the width of a book when nobody needs it.",
            "For homes where the sofa is also the bed.",
            "Uses the space behind the door.",
            "Does three jobs and takes the room of one.",
            "Twenty square metres feel like thirty.",
            "Hangs, stacks, slides out of sight.",
            "No drill, no deposit lost, no clutter.",
        ),
    ),
    "cycle": (
        "cycling to work in all weather",
        (
            "Arrive dry, lit and on time.",
            "Clips on before the traffic light turns green.",
            "For two wheels, five days a week, twelve months a year.",
            "Seen by lorries, loved by bus lanes.",
            "Shakes off spray and potholes alike.",
            "From pannier to meeting room without a crease.",
            "Headwind not included.",
        ),
    ),
    "bake": (
        "Sunday baking with children",
        (
            "Flour on the nose, giggles in the kitchen.",
            "Small hands can hold it and nothing sharp sticks out.",
            "For dough that rises while a story is read.",
            "Lick the spoon, then rinse; it goes in the dishwasher.",
            "Turns a wet weekend into warm buns.",
            "Measures in colours as well as grams.",
            "The reason grandmother's recipe card is so sticky.",
        ),
    ),
    "dorm": (
        "moving into a student room",
        (
            "Fits the first place of your own, key still warm.",
            "Survives shared kitchens and borrowed Tuesdays.",
            "Cheap enough for September, good enough for finals.",
            "Goes from the family car up four flights in one trip.",
            "For the shelf above a narrow bed on campus.",
            "Roommate approved, landlord friendly.",
            "The list says bring one; this is the one.",
        ),
    ),
    "flight": (
        "getting through long flights",
        (
            "Eleven hours in the middle seat, and still human.",
            "Slides under the seat in front.",
            "Mutes engines, neighbours and announcements.",
            "For time zones that do not agree with you.",
            "Passes security without unpacking.",
            "Land rested, whatever the tray table thinks.",
            "Red-eye tested over two oceans.",
        ),
    ),
    "puppy": (
        "the first year with a puppy",
        (
            "Stands up to needle teeth and boundless love.",
            "For the weeks in which nothing on the floor is safe.",
            "Wipes clean after little accidents.",
            "Sit, stay, and one more treat.",
            "Muddy paws welcome.",
            "Grows along until the ears fit the head.",
            "Saves slippers, table legs and tempers.",
        ),
    ),
    "balcony": (
        "growing food on a balcony",
        (
            "Tomatoes five floors up, picked before breakfast.",
            "All the harvest a railing can carry.",
            "For green thumbs without a lawn.",
            "Holds water through a hot weekend away.",
            "From seed to salad in one sunny corner.",
            "Bees find it even in the city.",
            "Basil, chillies and a little dirt under the nails.",
        ),
    ),
    "spa": (
        "an evening to unwind at home",
        (
            "Run the tap, close the door, let the day drain away.",
            "Smells of eucalyptus and nobody calling.",
            "For shoulders that have carried enough today.",
            "Soft light, warm steam, no plans.",
            "An hour that belongs to you alone.",
            "Turns the bathroom into somewhere else.",
            "Put the phone in another room and breathe.",
        ),
    ),
    "dinner": (
        "having friends round for dinner",
        (
            "Looks good from both ends of a long table.",
            "For evenings that end with somebody else washing up.",
            "Seats eight, forgives spills.",
            "Goes from oven to applause.",
            "The second bottle is already open.",
            "Nobody asks where the starter went.",
            "Makes a Wednesday feel like an invitation.",
        ),
    ),
    "snow": (
        "winter walks in the snow",
        (
            "For mornings when the path is white and your breath shows.",
            "Keeps feeling in the fingertips at minus ten.",
            "Grips where others slide.",
            "Warm at the summit cross, light on the way down.",
            "Frost on the outside, toast within.",
            "When the valley goes quiet and the boots creak.",
            "Layer it, zip it, go and find the first tracks.",
        ),
    ),
    "van": (
        "weekends in a camper van",
        (
            "Stays put on winding roads and runs on twelve volts.",
            "For a home of six metres with a new view every morning.",
            "Stows under the bunk, swings out at the lay-by.",
            "Park, brew, open the sliding door.",
            "Does not rattle between Friday evening and Sunday.",
            "Everything has a hook when the kitchen moves.",
            "Off grid, on the coast road.",
        ),
    ),
    "craft": (
        "making gifts by hand",
        (
            "Because the best parcel is the one you made yourself.",
            "For evenings with scissors, thread and a secret.",
            "Somebody will unwrap this and know it took time.",
            "Neat stitches, steady glue, happy aunt.",
            "Starts as a kit, ends under the tree.",
            "Wrong on the first try, lovely on the second.",
            "A name embroidered beats a name printed.",
        ),
    ),
    "repair": (
        "fixing things in an old house",
        (
            "For doors that stick and floors that tell stories.",
            "Finds the leak before the plumber finds a date.",
            "Nothing here is square, and this does not mind.",
            "Sixty years of paint meet their match.",
            "One more Saturday and the draught is gone.",
            "Reaches the screw that the previous owner hid.",
            "Creaks, drips and rattles, one by one.",
        ),
    ),
    "beach": (
        "beach days with the family",
        (
            "Sand falls off, salt rinses out.",
            "Carries towels, buckets and half the snacks.",
            "For the dash between dunes and first wave.",
            "Shade for the smallest, room for the sandcastle crew.",
            "Ice still clinks at four in the afternoon.",
            "Everybody in the water, nobody burnt.",
            "Smells of sunscreen all summer.",
        ),
    ),
    "games": (
        "game nights with friends",
        (
            "One more round, and then really the last.",
            "Rules in five minutes, revenge for years.",
            "Keeps dice off the floor and crisps off the cards.",
            "For the table where nobody lets you win.",
            "Bluff, build, laugh, repeat.",
            "Somebody always takes the blue pieces.",
            "Doors at seven, scores on the fridge.",
        ),
    ),
    "photo": (
        "taking photographs on the road",
        (
            "For the light that lasts four minutes.",
            "Ready before the fox has looked up.",
            "Holds still when the wind does not.",
            "Thirty-six frames and a long way from the car.",
            "Protects the glass, frees the hands.",
            "Chases golden hour over three borders.",
            "The shot you got up at five for.",
        ),
    ),
    "sleep": (
        "sleeping better",
        (
            "Lights out means out.",
            "For minds that start to count at midnight.",
            "Cool side of the pillow, all night.",
            "Wakes you with a sunrise and not with a shriek.",
            "Heavier than worries.",
            "Ten pages, one deep breath, gone.",
            "The street keeps talking; you no longer hear it.",
        ),
    ),
    "strength": (
        "getting strong at home",
        (
            "Twenty minutes between the sofa and the shelf.",
            "Adds a kilo when last week felt easy.",
            "No mirror wall, no membership, no excuse.",
            "For the first real push-up and the fiftieth.",
            "Quiet on the floorboards, hard on the core.",
            "Sets, reps, rest, repeat before breakfast.",
            "Grip that does not slip when arms start to shake.",
        ),
    ),
    "blackout": (
        "being ready for power cuts",
        (
            "When the whole street goes dark, reach for this.",
            "Keeps its charge in a drawer for years.",
            "Works without a socket, signal or app.",
            "For storms that take the lines down.",
            "Three days of calm in one box.",
            "Hand on the crank, news in the ear.",
            "The fridge is off and supper still gets warm.",
        ),
    ),
}

# category: (brands, adjectives, plain sentences)
CATEGORIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "Outdoor": (
        ("Norrvik", "Tarnfell", "Pinehaven", "Cairnway"),
        ("Packable", "Rugged", "Ultralight", "Expedition", "All-Terrain"),
        ("Comes with a stuff sack.", "Seams are taped and bar-tacked.", "Weighs less than it looks."),
    ),
    "Kitchen": (
        ("Maison Orla", "Copperleaf", "Brennhus", "Saltmill"),
        ("Classic", "Everyday", "Heritage", "Studio", "Hand-Finished"),
        ("Dishwasher safe.", "Easy to clean.", "Feels solid in the hand."),
    ),
    "Home": (
        ("Lindgarten", "Haven & Oak", "Fjell Living", "Plainfolk"),
        ("Nordic", "Soft-Touch", "Everyday", "Minimal", "Handmade"),
        ("Easy to assemble without tools.", "Available in several colours.", "Care label inside."),
    ),
    "Electronics": (
        ("Voltane", "Lumiq", "Kestrel Labs", "Oriwave"),
        ("Slim", "Compact", "Pro", "Lightweight", "Essential"),
        ("Sturdy housing.", "Two-year guarantee.", "Quick-start guide included."),
    ),
    "Sports": (
        ("Stridewell", "Ferrum", "Aerolane", "Northpace"),
        ("Club", "Pro", "Elite", "Everyday", "Compact"),
        ("Wipe down after use.", "Comes with a carry pouch.", "Guide with exercises online."),
    ),
    "Clothing": (
        ("Wend & Co", "Tarnfell", "Moorline", "Aerolane"),
        ("Classic", "Trail", "Lightweight", "Everyday", "Recycled"),
        ("Regular fit.", "Do not tumble dry.", "Made from certified fibres."),
    ),
    "Baby": (
        ("Littlefern", "Nestling", "Plainfolk", "Moonwhale"),
        ("Organic", "Gentle", "Soft", "Everyday", "Little Star"),
        ("Tested for harmful substances.", "No small parts.", "Wipe-clean surface."),
    ),
    "Pets": (
        ("Barkwell", "Goodtail", "Moonwhale", "Cairnway"),
        ("Tough", "Classic", "Junior", "Comfort", "Trail"),
        ("Three sizes.", "Non-toxic dyes.", "Spare parts available."),
    ),
    "Garden": (
        ("Greenledge", "Sprout & Son", "Haven & Oak", "Rainwell"),
        ("Country", "Classic", "Slim", "Heritage", "Weatherproof"),
        ("Frost resistant.", "Leave it outside all year.", "Instructions for the season included."),
    ),
    "Beauty": (
        ("Solene", "Dewberry Lane", "Aurelle", "Nordic Balm"),
        ("Pure", "Gentle", "Soothing", "Mineral", "Botanical"),
        ("Dermatologically tested.", "Vegan formula.", "Keep away from direct sun."),
    ),
    "Toys & Hobbies": (
        ("Pawn & Parlour", "Tinker Row", "Tinderbox", "Moonwhale"),
        ("Deluxe", "Travel", "Family", "Starter", "Collector"),
        ("From eight years.", "Spare pieces included.", "Box with a sorting tray."),
    ),
    "Tools": (
        ("Ferrum", "Brennhus", "Hartwerk", "Oldbeam"),
        ("Workshop", "Trade", "Precision", "Heavy-Duty", "Multi-Purpose"),
        ("Lifetime warranty.", "Comes in a case.", "Tested in the trade."),
    ),
}

# product | category > shelf | intents it can serve
PRODUCTS = """
rain tarp | Outdoor > Shelter | camp van beach
two-person tent | Outdoor > Shelter | camp van photo beach
sleeping bag | Outdoor > Sleeping | camp snow van blackout
inflatable sleeping mat | Outdoor > Sleeping | camp van dorm sleep
dry bag | Outdoor > Bags | camp cycle photo beach
daypack | Outdoor > Bags | snow photo flight dorm cycle
trekking poles | Outdoor > Walking | snow camp photo
gas stove | Outdoor > Cooking | camp van blackout coffee
insulated flask | Outdoor > Cooking | snow coffee cycle newborn
cool box | Outdoor > Cooking | beach van dinner blackout
head torch | Outdoor > Light | camp blackout marathon repair
hand warmers | Outdoor > Walking | snow photo blackout cycle
pour-over dripper | Kitchen > Coffee | coffee van dorm
burr grinder | Kitchen > Coffee | coffee van dinner
gooseneck kettle | Kitchen > Coffee | coffee desk dinner
espresso cups | Kitchen > Coffee | coffee dinner smallflat
travel mug | Kitchen > Coffee | coffee cycle flight desk
stand mixer | Kitchen > Baking | bake dinner craft
silicone baking mat | Kitchen > Baking | bake smallflat craft
cookie cutters | Kitchen > Baking | bake craft games
digital scale | Kitchen > Baking | bake coffee marathon
cast iron pot | Kitchen > Cooking | dinner camp van blackout
nesting pans | Kitchen > Cooking | smallflat dorm van
serving platter | Kitchen > Table | dinner games craft
wine glasses | Kitchen > Table | dinner spa games
lunch box | Kitchen > Storage | desk cycle beach dorm
bottle warmer | Kitchen > Appliances | newborn van flight
one-pot rice cooker | Kitchen > Appliances | dorm smallflat newborn
folding table | Home > Furniture | smallflat van games craft
floor cushion | Home > Furniture | smallflat games spa newborn
over-door rack | Home > Storage | smallflat dorm repair
under-bed boxes | Home > Storage | smallflat dorm newborn
weighted blanket | Home > Bedding | sleep spa desk
blackout curtain | Home > Bedding | sleep newborn dorm van
memory foam pillow | Home > Bedding | sleep flight desk
linen sheets | Home > Bedding | sleep spa dorm
scented candle | Home > Decoration | spa dinner blackout sleep
string lights | Home > Decoration | dorm dinner balcony van
table runner | Home > Decoration | dinner craft bake
door draught excluder | Home > Comfort | repair sleep dorm blackout
seat cushion | Home > Comfort | desk games flight van
laptop stand | Electronics > Office | desk dorm smallflat
monitor lamp | Electronics > Office | desk craft photo
noise-cancelling headphones | Electronics > Audio | flight desk sleep dorm
white noise machine | Electronics > Audio | sleep newborn flight puppy
hand-crank radio | Electronics > Emergency | blackout camp van
power bank | Electronics > Emergency | blackout flight photo camp
power station | Electronics > Emergency | blackout van camp
sunrise alarm clock | Electronics > Bedroom | sleep desk coffee strength
night light | Electronics > Bedroom | newborn sleep blackout
GPS watch | Electronics > Wearables | marathon cycle snow strength
action camera | Electronics > Photo | photo cycle beach snow
travel tripod | Electronics > Photo | photo van flight
memory card case | Electronics > Photo | photo flight games
pet camera | Electronics > Smart Home | puppy newborn desk
running belt | Sports > Running | marathon cycle puppy
foam roller | Sports > Recovery | marathon strength desk spa
massage ball | Sports > Recovery | marathon desk flight spa
resistance bands | Sports > Training | strength flight marathon newborn
kettlebell | Sports > Training | strength smallflat marathon
exercise mat | Sports > Training | strength spa smallflat newborn
doorway pull-up bar | Sports > Training | strength dorm smallflat
bike light set | Sports > Cycling | cycle camp blackout
pannier bag | Sports > Cycling | cycle photo balcony
puncture kit | Sports > Cycling | cycle repair van
swim goggles | Sports > Water | beach strength marathon
beach shade | Sports > Water | beach puppy newborn
rain jacket | Clothing > Jackets | camp cycle snow puppy
down vest | Clothing > Jackets | snow van photo cycle
base layer | Clothing > Underwear | snow marathon camp strength
compression socks | Clothing > Socks | flight marathon newborn
fingerless gloves | Clothing > Gloves | photo cycle snow repair
apron | Clothing > Workwear | bake dinner craft repair
bathrobe | Clothing > Homewear | spa newborn sleep coffee
sun hat | Clothing > Hats | beach balcony marathon
swaddle blanket | Baby > Textiles | newborn sleep beach
nursing pillow | Baby > Textiles | newborn flight sleep
baby carrier | Baby > On the Way | newborn snow flight beach
muslin cloths | Baby > Textiles | newborn bake beach spa
changing mat | Baby > Care | newborn puppy van
chew toy | Pets > Toys | puppy van beach
training lead | Pets > Walking | puppy snow marathon
paw cleaner | Pets > Care | puppy snow smallflat
dog crate | Pets > Sleeping | puppy van sleep
treat pouch | Pets > Walking | puppy photo cycle
balcony planter | Garden > Pots | balcony smallflat dinner
herb seed kit | Garden > Seeds | balcony bake dinner craft
watering can | Garden > Tools | balcony beach dorm
hand trowel | Garden > Tools | balcony beach repair camp
rain barrel | Garden > Water | balcony repair blackout
bath salts | Beauty > Bath | spa marathon strength sleep
face mask set | Beauty > Skin | spa flight dorm
hand cream | Beauty > Skin | snow desk balcony repair newborn
sunscreen | Beauty > Sun | beach marathon balcony snow
lavender pillow spray | Beauty > Bath | sleep spa flight
blister plasters | Beauty > First Aid | marathon snow camp dorm
strategy board game | Toys & Hobbies > Games | games dinner blackout
card game | Toys & Hobbies > Games | games flight camp beach blackout
dice tray | Toys & Hobbies > Games | games craft puppy
jigsaw puzzle | Toys & Hobbies > Games | games spa blackout coffee
embroidery kit | Toys & Hobbies > Craft | craft flight sleep
candle making set | Toys & Hobbies > Craft | craft spa blackout
knitting needles | Toys & Hobbies > Craft | craft flight newborn
paint set | Toys & Hobbies > Craft | craft bake games photo
sand toys | Toys & Hobbies > Outdoor Play | beach balcony puppy bake
screwdriver set | Tools > Hand Tools | repair dorm craft games
multi-tool | Tools > Hand Tools | repair camp cycle van
caulking gun | Tools > Hand Tools | repair balcony van
stud finder | Tools > Measuring | repair strength smallflat
laser level | Tools > Measuring | repair smallflat photo
adhesive hooks | Tools > Fixings | smallflat dorm repair van
work gloves | Tools > Workwear | repair balcony strength puppy
""".strip()

COLOURS: dict[str, tuple[int, int, int]] = {
    "Moss": (96, 125, 74),
    "Slate": (92, 106, 122),
    "Rust": (178, 84, 44),
    "Sand": (206, 180, 132),
    "Navy": (38, 60, 108),
    "Cherry": (176, 36, 60),
    "Teal": (28, 130, 130),
    "Mustard": (214, 164, 36),
    "Plum": (112, 56, 116),
    "Charcoal": (58, 58, 62),
    "Sky": (112, 172, 220),
    "Coral": (238, 122, 98),
}

VARIANTS = ("", "", "", "Set of 2", "Large", "Small", "2nd Generation", "Travel Size", "Gift Box")
